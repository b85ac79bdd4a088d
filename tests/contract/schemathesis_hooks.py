"""What Schemathesis may not hold against the service; loaded by its own process, named in `test_schemathesis.py`."""

from typing import Any

import schemathesis

HEADERS = "Invalid component: in header - object with unexpected properties"


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Pass over what is no failure.

    - Headers that no document names are taken: HTTP lets anyone send more of them, proxies above all.
    - A request that gives itself a millisecond is answered 504, as it wants.
    """
    asked_for = response.status_code == 504 and "x-request-timeout-ms" in case.headers
    return HEADERS not in failure.message and not asked_for
