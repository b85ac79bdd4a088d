"""Hosts that pictures are not fetched from: every form of address that is not public, by whatever way it comes."""

from typing import Any

import pytest

from picture_hosts import NO_CONNECTION, PUBLIC, UNREACHABLE, Names, answer, fetcher, picture_host, redirect, refusal
from quartzite.preprocess.fetch import look_up

REFUSED = ["10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1", "224.0.0.1", "240.0.0.1", "0.0.0.0"]
REFUSED_IPV6 = ["::", "::1", "fe80::1", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
REFUSED_IPV6 += ["64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:4136:e378::1", "::127.0.0.1"]


@pytest.mark.parametrize("address", [*REFUSED, *REFUSED_IPV6])
async def test_addresses_that_are_not_public_are_never_connected_to(
    address: str, connected: list[tuple[str, int]]
) -> None:
    """Neither written in the URL nor found behind a name."""
    written = f"[{address}]" if ":" in address else address
    async with fetcher(names=Names({address: [[address]], "inner.test": [[address]]})) as fetching:
        for url in (f"http://{written}/", f"https://{written}:8443/a.png", "http://inner.test/", "https://inner.test/"):
            assert await refusal(fetching, url) == UNREACHABLE
    assert connected == []


@pytest.mark.parametrize(
    "url",
    [
        *("http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://017700000001/", "http://127.1/"),
        *("http://127.0.0.1./", "http://127。0。0。1/", "http://%6c%6f%63alhost/", "http://localhost/"),
        *("http://LOCALHOST./", "http://[::1]/", "http://[0:0:0:0:0:ffff:7f00:1]/", "http://0/", "http://"),
        *("http://[::1%25lo]/", "http://[fe80::1%25eth0]/", "http:///etc/passwd", "http://loc\u0430lhost/"),
    ],
)
async def test_odd_spellings_lead_nowhere(url: str, connected: list[tuple[str, int]]) -> None:
    """Numbers, short forms, other scripts, final dots: asked of the system itself, this machine is not reached."""

    async def numeric_look_up(host: str) -> Any:
        return await look_up(host) if host.isascii() and "xn--" not in host else []

    async with fetcher(names=numeric_look_up) as fetching:
        said = await refusal(fetching, url)
    assert said == UNREACHABLE or said.startswith(("is no valid URL", "leads to a URL that is neither http nor https"))
    assert connected == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://0177.0.0.1/", "is no valid URL"),
        ("http://①②⑦.0.0.1/", "is no valid URL"),
        ("http://a\tb/", "is no valid URL"),
        ("http://pictures.test:80:80/", "is no valid URL"),
        ("http://pictures.test:99999/", "could not be fetched: no connection"),
        ("http://" + "a" * 70_000 + "/", "is no valid URL"),
        ("http://user@pictures.test/", "leads to a URL with a user name or password in it, which are not sent"),
        ("http://user:secret@pictures.test/", "leads to a URL with a user name or password in it, which are not sent"),
        ("http://pictures.test\\@inner.test/", "leads to a URL with a user name or password in it, which are not sent"),
        ("http://nowhere.test/", UNREACHABLE),
    ],
)
async def test_urls_that_are_none_are_refused(url: str, says: str, connected: list[tuple[str, int]]) -> None:
    """What is told repeats nothing of the URL, in which there may be a password."""
    async with fetcher(names=Names({"pictures.test": [[PUBLIC]]})) as fetching:
        said = await refusal(fetching, url)
    assert said.startswith(says)
    assert "secret" not in said


async def test_only_the_public_addresses_of_a_name_are_tried(connected: list[tuple[str, int]]) -> None:
    """A name may have both kinds; those that are not public are left out, and the others tried in turn."""
    names = Names({"both.test": [["127.0.0.1", PUBLIC, "10.0.0.1", "2606:4700::1"]]})
    async with fetcher(names=names) as fetching:
        assert await refusal(fetching, "http://both.test:8080/") == NO_CONNECTION
    assert connected == [(PUBLIC, 8080), ("2606:4700::1", 8080)]


async def test_an_own_address_is_refused_though_it_looks_public(
    monkeypatch: pytest.MonkeyPatch, connected: list[tuple[str, int]]
) -> None:
    """What guards this machine from outside does not stand between it and itself."""
    monkeypatch.setattr("quartzite.preprocess.fetch.is_public", lambda _: True)
    async with fetcher(names=Names({"me.test": [["127.0.0.1"]], "me6.test": [["::1"]]})) as fetching:
        assert await refusal(fetching, "http://me.test/") == UNREACHABLE
        assert await refusal(fetching, "http://me6.test/") == UNREACHABLE
    assert connected == []


async def test_a_name_is_looked_up_once_and_the_connection_made_to_what_was_checked(
    connected: list[tuple[str, int]],
) -> None:
    """A name that stands for this machine at the second look gains nothing by it."""
    names = Names({"rebind.test": [[PUBLIC], ["127.0.0.1"]]})
    async with fetcher(names=names) as fetching:
        await refusal(fetching, "http://rebind.test/")
    assert names.asked == ["rebind.test"]
    assert connected == [(PUBLIC, 80)]


async def test_a_server_that_moves_between_look_ups_is_met_where_it_was_checked() -> None:
    """With two real servers of the same port: the one of the first look-up is visited, the other is not."""
    async with (
        picture_host(answer(b"first")) as first,
        picture_host(answer(b"second"), "127.0.0.2", first.port) as second,
    ):
        names = Names({"rebind.test": [["127.0.0.1"], ["127.0.0.2"]]})
        async with fetcher(f"rebind.test:{first.port}", names=names) as fetching:
            assert await fetching.fetch(first.url("rebind.test")) == b"first"
    assert (first.connections, second.connections) == (1, 0)


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/", "http://inner.test:{port}/a", "//inner.test:{port}/", "http://[::1]:{port}/"]
)
async def test_a_redirect_into_this_machine_is_not_followed(target: str) -> None:
    """Each hop is checked as the first one is; the server behind is not even connected to."""
    async with picture_host(answer(b"inner secret")) as inner:
        leading = redirect(target.format(port=inner.port))
        names = Names({"pictures.test": [["127.0.0.1"]], "inner.test": [["127.0.0.1"]]})
        names.answers |= {"127.0.0.1": [["127.0.0.1"]], "::1": [["::1"]]}
        async with picture_host(leading) as host, fetcher(f"pictures.test:{host.port}", names=names) as fetching:
            assert await refusal(fetching, host.url()) == UNREACHABLE
    assert inner.connections == 0


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("ftp://pictures.test/a", "leads to a URL that is neither http nor https"),
        ("file:///etc/passwd", "leads to a URL that is neither http nor https"),
        ("http://u:p@pictures.test/", "leads to a URL with a user name or password"),
        ("http://[::1", "could not be fetched: its host answered with status 302"),
    ],
)
async def test_a_redirect_to_what_is_no_picture_host_is_refused(target: str, says: str) -> None:
    """Other schemes, passwords and what is no URL at all."""
    async with picture_host(redirect(target)) as host, fetcher(f"pictures.test:{host.port}") as fetching:
        assert (await refusal(fetching, host.url())).startswith(says)
