"""The application of uvicorn: Starlette, with argon2 as OWASP recommends it (19 MiB, two passes, one lane).

HASH_ON says where passwords are checked: in the loop's default executor ("pool") or on the loop itself ("loop").
"""

import asyncio
import contextvars
import os
import time

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

HASHER = PasswordHasher(time_cost=2 * int(os.environ.get("HASH_COST", "1")), memory_cost=19456, parallelism=1)
IN_POOL = os.environ.get("HASH_ON", "pool") == "pool"
USERS = {"ann": HASHER.hash("secret")}
CATALOGUE = [{"id": number, "name": f"Article {number}", "price": 100 * number} for number in range(1, 21)]


def matches(stored: str, password: str) -> bool:
    """Whether that is the password."""
    try:
        return HASHER.verify(stored, password)
    except VerifyMismatchError:
        return False


async def login(request):
    """Checks a password; an unknown user fails before any hashing."""
    form = await request.form()
    stored = USERS.get(form["user"])
    if stored is None:
        return JSONResponse({"error": "unknown user"}, 401)
    if IN_POOL:
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(None, METER.get().metered, matches, stored, form["password"])
    else:
        right = matches(stored, form["password"])
    if not right:
        return JSONResponse({"error": "wrong password"}, 401)
    return JSONResponse({"welcome": form["user"]})


async def browse(_request):
    """The catalogue: light."""
    return JSONResponse({"articles": CATALOGUE})


async def report(_request):
    """Waits for a slow system elsewhere: long, but next to no CPU."""
    await asyncio.sleep(0.05)
    return JSONResponse({"sales": 42})


starlette = Starlette(
    routes=[
        Route("/login", login, methods=["POST"]),
        Route("/browse", browse),
        Route("/report", report),
    ]
)


class Meter:
    """The thread CPU time of one request: of its coroutine's steps on the loop, which those of other requests come
    between, and of its jobs in the pool."""

    def __init__(self, coroutine):
        self.coroutine = coroutine
        self.spent_ns = 0
        self.step_begun_ns = None

    def metered(self, job, *arguments):
        """Runs a job in a thread of the pool."""
        begun = time.thread_time_ns()
        try:
            return job(*arguments)
        finally:
            # The coroutine waits for this: nobody else writes.
            self.spent_ns += time.thread_time_ns() - begun

    def now_ns(self):
        """Up to now; to be asked in a step of the coroutine."""
        return self.spent_ns + time.thread_time_ns() - self.step_begun_ns

    def __await__(self):
        resume, argument = self.coroutine.send, None
        while True:
            self.step_begun_ns = time.thread_time_ns()
            try:
                awaited = resume(argument)
            except StopIteration as end:
                return end.value
            finally:
                self.spent_ns += time.thread_time_ns() - self.step_begun_ns
            try:
                resume, argument = self.coroutine.send, (yield awaited)
            except BaseException as error:  # pylint: disable=broad-exception-caught
                # A cancellation is the coroutine's to handle.
                resume, argument = self.coroutine.throw, error


METER: contextvars.ContextVar[Meter] = contextvars.ContextVar("meter")


async def app(scope, receive, send):
    """Starlette, with the thread CPU time of each request told in its answer."""
    if scope["type"] != "http":
        return await starlette(scope, receive, send)

    async def tell(message):
        if message["type"] == "http.response.start":
            message["headers"].append((b"x-cpu-ns", str(meter.now_ns()).encode()))
        await send(message)

    meter = Meter(starlette(scope, receive, tell))
    METER.set(meter)
    return await meter
