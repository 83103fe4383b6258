"""The wire format between the daemon and its delivery workers."""

from wasmdrop.delivery.wire import (
    Abandon,
    DeliveryRequest,
    FrameDecoder,
    Publish,
    decode_request,
    encode,
)


def test_frame_decoder_with_any_split_returns_all_bodies() -> None:
    """Byte by byte, and in any two parts."""
    requests: list[DeliveryRequest] = [Publish(1), Abandon(2), Publish(300)]
    data = b"".join(map(encode, requests))
    for at in range(len(data) + 1):
        frames = FrameDecoder()
        bodies = frames.feed(data[:at]) + frames.feed(data[at:])
        assert list(map(decode_request, bodies)) == requests
    frames = FrameDecoder()
    one_by_one = [body for byte in data for body in frames.feed(bytes([byte]))]
    assert list(map(decode_request, one_by_one)) == requests
