"""Signatures: what was signed is accepted, anything else is not, and no text shows a secret."""

from __future__ import annotations

import hashlib
import hmac

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream import Millstream, PayloadTooLarge
from millstream.protocol.drafts import chunks, new_job
from millstream.protocol.envelope import Malformed, encode_envelope, parse_entry
from millstream.protocol.payload import MAX_PAYLOAD
from millstream.protocol.signing import BadSignature, Keyring, problem, sign, verify

OLD, NEW = "o" * 32, "n" * 40
RING = Keyring.parse(f"new:{NEW},\nold:{OLD}\n")
NAMES = st.text("abcXYZ019_.-", min_size=1, max_size=12)
QUICK = settings(deadline=None, database=None)  # a busy machine is no error; nothing is kept


def signed(queue: str = "q", job_id: str = "j", *, ring: Keyring = RING, **kwargs: object) -> bytes:
    return sign(encode_envelope("n", [1], kwargs, queue=queue, enqueued_at=5), queue, job_id, ring)


def read(envelope: bytes, queue: str = "q", job_id: str = "j", ring: Keyring | None = RING) -> list[object]:
    return parse_entry("n", b"1-0", [b"id", job_id.encode(), b"env", envelope], queue, ring).args


@QUICK
@given(queue=NAMES, job_id=NAMES, text=st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_what_was_signed_is_accepted(queue: str, job_id: str, text: str) -> None:
    envelope = signed(queue, job_id, text=text)
    verify(envelope, queue, job_id, RING, "n1-0")
    assert orjson.loads(envelope)["k"] == {"text": text}
    assert read(envelope, queue, job_id) == read(envelope, queue, job_id, None) == [1]


@QUICK
@given(data=st.data())
def test_no_changed_byte_is_accepted(data: st.DataObject) -> None:
    envelope = bytearray(signed(text="some text"))
    at = data.draw(st.integers(0, len(envelope) - 1))
    envelope[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadSignature):
        verify(bytes(envelope), "q", "j", RING, "n1-0")


@QUICK
@given(one=st.tuples(NAMES, NAMES), other=st.tuples(NAMES, NAMES))
def test_a_signature_is_of_one_queue_and_one_id(one: tuple[str, str], other: tuple[str, str]) -> None:
    envelope = signed(*one)
    if one != other:
        with pytest.raises(BadSignature, match="does not fit"):
            verify(envelope, *other, RING, "n1-0")


def test_parts_cannot_be_shifted() -> None:
    """The end of one part is never the beginning of the next."""
    envelope = signed("ab", "c")
    with pytest.raises(BadSignature, match="does not fit"):
        verify(envelope, "a", "bc", RING, "n1-0")


def test_it_is_the_hmac_that_the_wire_format_says() -> None:
    body = b'{"v":1,"n":"n","q":"q","t":5,"a":["\xc3\xa4"]'
    text = b"millstream-1 1:q,1:j,%d:%b" % (len(body), body)
    mac = hmac.new(NEW.encode(), text, hashlib.sha256).hexdigest()
    assert read(b'%b,"s":"new:%b"}' % (body, mac.encode())) == ["ä"]


def test_all_keys_verify_and_the_first_signs() -> None:
    assert b'"s":"new:' in signed()
    old = Keyring.parse(f"old:{OLD}")
    assert read(signed(ring=old)) == [1]
    with pytest.raises(BadSignature, match=r"entry n1-0 is signed by key 'new', which signing_keys lacks here"):
        read(signed(), ring=old)
    with pytest.raises(BadSignature, match="does not fit"):
        read(signed(), ring=Keyring.parse(f"new:{OLD}"))


UNSIGNED = [
    encode_envelope("n", [1], {}, queue="q", enqueued_at=5),
    b"",
    b"}",
    b'"}',
    b'{"s":"new:' + b"0" * 64 + b'"}',  # no comma before it: not what we write
    signed().replace(b'"s":"new', b'"s": "new'),
    signed() + b"\n",
    signed()[:-3] + b'A"}',
    signed().replace(b'"s":', b'"S":'),
    b"[" * 100_000,
    encode_envelope("n", [{"x": 1, "s": "new:" + "0" * 64}], {}, queue="q", enqueued_at=5),
]


@pytest.mark.parametrize("envelope", UNSIGNED, ids=range(len(UNSIGNED)))
def test_unsigned(envelope: bytes) -> None:
    """It is refused before it is decoded, whatever it is; during a roll-out only what is no job is."""
    with pytest.raises(BadSignature, match=r"^entry n1-0 is not signed: "):
        read(envelope)
    with pytest.raises(BadSignature, match="does not fit"):
        verify(b'{"x":1,"s":"new:' + b"0" * 64 + b'"}', "q", "j", Keyring.parse(f"new:{NEW}", accept_unsigned=True), "")
    verify(envelope, "q", "j", Keyring.parse(f"new:{NEW}", accept_unsigned=True), "n1-0")


def test_a_second_signature_does_not_replace_the_first() -> None:
    """JSON would take the last of two members; both are in what is covered."""
    body = signed()[:-1]
    with pytest.raises(BadSignature):
        read(body + b',"s":"new:' + b"0" * 64 + b'"}')
    with pytest.raises(BadSignature):
        read(body + b',"a":[2]}')


SECRET = "Qq7" * 20
WRONG = {
    "": "holds no key: write id:secret",
    " , \n": "holds no key: write id:secret",
    SECRET: "key 1 of 1 must be id:secret",
    f"ok:{SECRET},{SECRET}": "key 2 of 2 must be id:secret",
    f"ök:{SECRET}": "key 1 of 1 must be id:secret",
    f"{'i' * 33}:{SECRET}": "key 1 of 1 must be id:secret",
    f"id:{SECRET}ß": "key 1 of 1 must be id:secret",
    f"id:{SECRET[:31]}": "the secret of key 1 of 1 has 31 characters, it needs 32: make one by openssl rand -hex 32",
    f"id:{SECRET},id:x{SECRET}": "two keys have the same id",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items(), ids=range(len(WRONG)))
def test_keys_that_cannot_be_used(text: str, message: str) -> None:
    found = problem(text)
    assert found is not None and found.startswith(message)
    assert "Qq7" not in found


def test_a_keyring_shows_ids_only() -> None:
    assert RING.ids == ["new", "old"]
    assert OLD not in repr(RING) and NEW not in repr(RING)


def test_drafts_are_signed() -> None:
    app = Millstream(redis_url="redis://unused")

    @app.job(queue="reports")
    def work(text: str) -> None: ...

    ours = new_job(work.using(id="mine").job("x"), RING)
    assert read(ours.envelope, "reports", "mine") == ["x"]
    for new in (new_job(work.job("x"), RING), *(new for chunk in chunks([work.job("y")], RING) for _, new in chunk)):
        verify(new.envelope, "reports", new.id, RING, "")
    assert b'"s"' not in new_job(work.job("x"), None).envelope


def test_the_limit_of_the_size_is_the_same_on_both_sides() -> None:
    app = Millstream(redis_url="redis://unused")

    @app.job(queue="q")
    def work(text: str) -> None: ...

    room = MAX_PAYLOAD - len(new_job(work.using(id="j").job(""), RING).envelope)
    fits = new_job(work.using(id="j").job("x" * room), RING).envelope
    assert len(fits) == MAX_PAYLOAD
    read(fits)
    with pytest.raises(PayloadTooLarge, match=r"job 'work', signed, is 1,048,577 bytes"):
        new_job(work.using(id="j").job("x" * (room + 1)), RING)
    with pytest.raises(Malformed, match=r"has an envelope of 1,048,577 bytes, the limit is 1,048,576"):
        read(fits + b" ")
