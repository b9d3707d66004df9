"""Pushes with the client that openapi-python-client makes: push_client.py URL KEY."""

import sys

from imgo_push_api_client import AuthenticatedClient
from imgo_push_api_client.api.push import push, push_batch
from imgo_push_api_client.models import Batch, Push

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2])
one = push.sync(client=client, body=Push(user="123", body={"test": 1}))
assert one.user == "123" and int(one.id) > 0 and one.duplicate is False, one
room = push.sync(client=client, body=Push(room="lobby", body_text="hello"))
assert not hasattr(room, "error"), room
batch = push_batch.sync(client=client, body=Batch(pushes=[{"user": "123", "body": 1}, {"user": "", "body": 2}]))
assert [r.status for r in batch.results] == [202, 400], batch
refused = push.sync(client=client, body=Push(user="123"))
assert refused.error.code == "invalid" and refused.error.field == "body", refused
