"""Pushes with the client that openapi-generator makes for Python: push_generator.py URL KEY."""

import sys

import openapi_client
from openapi_client.rest import ApiException

config = openapi_client.Configuration(host=sys.argv[1], access_token=sys.argv[2])
with openapi_client.ApiClient(config) as client:
    api = openapi_client.PushApi(client)
    one = api.push(openapi_client.Push(user="123", body={"test": 1}))
    assert one.user == "123" and int(one.id) > 0 and one.duplicate is False, one
    api.push(openapi_client.Push(room="lobby", body_text="hello"))
    batch = api.push_batch(openapi_client.Batch(pushes=[{"user": "123", "body": 1}, {"user": "", "body": 2}]))
    assert [r.status for r in batch.results] == [202, 400], batch
    try:
        api.push(openapi_client.Push(user="123"))
        raise AssertionError("a push without a body was accepted")
    except ApiException as e:
        assert e.status == 400 and '"field":"body"' in e.body, e
