"""The processes that decode pictures: started when needed, kept for the next picture, ended with what is given up.

Why not a library's: the pool of `anyio` forgets a process whose picture is given up while it starts, and that of
`concurrent.futures` cannot end one that takes too long.
"""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process

from quartzite.preprocess.decode import Bounds
from quartzite.preprocess.decoder import ANSWER, ENCODING, FILE, REQUEST, TEXT
from quartzite.preprocess.sources import BadPicture

PROGRAM = ("-m", "quartzite.preprocess.decoder")
_BUFFER_BYTES = 1024 * 1024


class DecoderEnded(Exception):
    """A process ended while it had a picture."""


class Decoders:
    """As many processes as there are pictures at the same time; `processes` are those that have not ended."""

    def __init__(self, bounds: Bounds) -> None:
        self.processes: set[Process] = set()
        self._idle: list[Process] = []
        self._arguments = [str(int(bound)) for bound in bounds]

    async def decode(self, source: bytes | str) -> tuple[int, int, bytes]:
        """Return height, width and RGB bytes of the picture in `source`; when cancelled, its process is ended.

        Raises BadPicture with the reason, and DecoderEnded.
        """
        process = await self._free()
        try:
            answer = await _ask(process, source)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            await self._end(process)
            raise DecoderEnded from error
        except BaseException:
            await self._end(process)
            raise
        self._idle.append(process)
        height, width, content = answer
        if not height:
            raise BadPicture(content.decode())
        return height, width, content

    async def close(self) -> None:
        """End all processes."""
        self._idle.clear()
        for process in tuple(self.processes):
            await self._end(process)

    async def _free(self) -> Process:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
            self.processes.discard(process)
        return await self._start()

    async def _start(self) -> Process:
        # Modules are looked for where this process finds them, and not in the folder it happens to run in.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", *PROGRAM, *self._arguments),
            stdin=PIPE,
            stdout=PIPE,
            limit=_BUFFER_BYTES,
            env=environment,
        )
        self.processes.add(process)
        return process

    async def _end(self, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        self.processes.discard(process)


async def _ask(process: Process, source: bytes | str) -> tuple[int, int, bytes]:
    kind, sent = (FILE, source) if isinstance(source, bytes) else (TEXT, source.encode(**ENCODING))
    requests, answers = process.stdin, process.stdout
    if requests is None or answers is None:
        raise AssertionError("the process was started without pipes")
    requests.write(REQUEST.pack(kind, len(sent)))
    requests.write(sent)
    await requests.drain()
    height, width, size = ANSWER.unpack(await answers.readexactly(ANSWER.size))
    return height, width, await answers.readexactly(size)
