"""A counter that lies, for tests that must notice: it gives every number twice."""

from itertools import count

from quart import Quart

from service import logs

logs.configure("INFO", json=True)
app = Quart(__name__)
hits = count()


@app.get("/")
async def hit() -> str:
    return f"<h1>Counter: {1 + next(hits) // 2}</h1>"
