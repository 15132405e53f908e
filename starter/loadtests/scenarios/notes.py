"""Some write notes, more read them; LOCUST_TOKEN must have the scope write.

./run load notes --headless --users 20 --spawn-rate 20 --run-time 30s
"""

from locust import FastHttpUser, constant, task

from loadtests.verdict import SCOPES, token_header

SCOPES.append("write")


class Notes(FastHttpUser):
    """A user who writes a note now and then. Requests are named `<class>: <what>`."""

    wait_time = constant(0)

    @task(4)
    def read(self) -> None:
        self.client.get("/notes", name="Notes: read")

    @task
    def write(self) -> None:
        headers = token_header(self.environment)
        self.client.post("/notes", json={"text": "a note of Locust's"}, headers=headers, name="Notes: write")
