"""Calls examples/grpc.rs at the address given, as services in Python do."""

import sys

import grpc
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2
from grpc_status import rpc_status


def prompt(request):
    """Prompt{text, max_words}, as protoc's code would write it; both are short."""
    text, max_words = request
    text = text.encode()
    return bytes([0x0A, len(text)]) + text + bytes([0x10, max_words])


def answer(message):
    """Answer{text}."""
    if not message:
        return ""
    assert message[0] == 0x0A, message
    length, at, shift = 0, 1, 0
    while True:
        length |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:
            break
    assert len(message) == at + length, message
    return message[at:].decode()


def refused(call):
    """What the call is refused with, and its details by their names."""
    try:
        call()
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        assert status is not None, "no details"
        assert status.code == error.code().value[0], status
        assert status.message == error.details(), status
        details = {}
        for packed in status.details:
            name = packed.type_url.removeprefix("type.googleapis.com/google.rpc.")
            detail = getattr(error_details_pb2, name)()
            assert packed.Unpack(detail), packed
            details[name] = MessageToDict(detail)
        return error, details
    raise AssertionError("the call was not refused")


def metadata(pairs):
    return {key: value for key, value in pairs}


def as_customer(name):
    return (("x-customer-id", name),)


def test_unary(complete):
    for words, remaining in [(40, 50), (40, 10)]:
        text, call = complete.with_call(("Say hello", words), metadata=as_customer("py_unary"))
        assert text == " ".join(["word"] * words), text
        assert call.code() is grpc.StatusCode.OK
        limit = metadata(call.initial_metadata())["ratelimit"]
        assert limit.startswith(f'"daily-tokens";r={remaining};t='), limit

    error, details = refused(
        lambda: complete(("Say hello", 1), metadata=as_customer("py_unary"))
    )
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
    assert error.details().startswith('The limit "Daily token limit" of 100 is reached.'), error
    (violation,) = details["QuotaFailure"]["violations"]
    assert violation == {
        "subject": "customer:py_unary",
        "description": "Daily token limit",
        "quotaMetric": "tokens",
        "quotaId": "daily-tokens",
        "quotaDimensions": {"period": "day"},
        "quotaValue": "100",
    }, violation
    assert details["ErrorInfo"] == {"reason": "QUOTA_EXCEEDED", "domain": "tower-limitry"}, details
    wait = int(details["RetryInfo"]["retryDelay"].removesuffix("s"))
    assert 1 <= wait <= 86_400, wait
    pushback = metadata(error.trailing_metadata())["grpc-retry-pushback-ms"]
    assert pushback == (str(wait * 1000) if wait <= 60 else "-1"), (wait, pushback)


def test_streams(stream):
    words = list(stream(("Say hello", 20), metadata=as_customer("py_stream")))
    assert words == ["word"] * 20, words
    for _ in range(2):
        call = stream(("Say hello", 10), metadata=as_customer("py_stream"))
        assert "ratelimit" in metadata(call.initial_metadata())
        assert len(list(call)) == 10

    # It is in its window of a minute, unless that has just ended.
    def another():
        for _ in range(4):
            list(stream(("Say hello", 0), metadata=as_customer("py_stream")))

    error, details = refused(another)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
    ids = [violation["quotaId"] for violation in details["QuotaFailure"]["violations"]]
    assert ids == ["streams"], ids
    wait = int(details["RetryInfo"]["retryDelay"].removesuffix("s"))
    assert 1 <= wait <= 60, wait
    pushback = metadata(error.trailing_metadata())["grpc-retry-pushback-ms"]
    assert pushback == str(wait * 1000), (wait, pushback)


def test_failures_are_not_counted(complete):
    for _ in range(3):
        try:
            complete(("", 50), metadata=as_customer("py_failure"))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
        else:
            raise AssertionError("the call did not fail")
    _, call = complete.with_call(("Say hello", 50), metadata=as_customer("py_failure"))
    limit = metadata(call.initial_metadata())["ratelimit"]
    assert limit.startswith('"daily-tokens";r=50;'), limit


def test_no_customer(complete, stream):
    for call in [complete, lambda request: list(stream(request))]:
        error, details = refused(lambda: call(("Say hello", 1)))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED, error
        assert error.details() == "The request does not say who the customer is.", error
        assert details == {
            "ErrorInfo": {"reason": "MISSING_CUSTOMER", "domain": "tower-limitry"}
        }, details


def test_health(health):
    # HealthCheckRequest{service} and HealthCheckResponse{status: SERVING}.
    service = b"pretend.v1.Model"
    assert health(bytes([0x0A, len(service)]) + service) == b"\x08\x01"


def main(address):
    with grpc.insecure_channel(address) as channel:
        complete = channel.unary_unary("/pretend.v1.Model/Complete", prompt, answer)
        stream = channel.unary_stream("/pretend.v1.Model/Stream", prompt, answer)
        test_unary(complete)
        test_streams(stream)
        test_failures_are_not_counted(complete)
        test_no_customer(complete, stream)
        test_health(channel.unary_unary("/grpc.health.v1.Health/Check"))
    print("all of it passed")


if __name__ == "__main__":
    main(sys.argv[1])
