"""The check: vectors of the protocol on both paths, an independent reference, and block checks."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.journal import _check
from tests.oracles import reference_codec

BLOCK_BYTES = 4096

VECTORS = [
    ("nothing", b"", "83cc600dc4e3e7e62d4055826174f149"),
    ("one zero", bytes(1), "6e12b8774264fed574e418fe77b706bc"),
    ("a block of zeros", bytes(16), "f72ad48dd05dd1656133101cd4be3a26"),
    ("a byte short of a chunk", bytes(range(31)), "419e43b0a730e59ecedf48700b4d97ba"),
    ("a chunk", bytes(range(32)), "2a7ca5353eba9161dc6c83c36d2e6adb"),
    ("a chunk and a byte", bytes(range(33)), "205dbc4d693090b206092b05c26870c4"),
    ("a header's length", bytes(range(240)), "cf36208392381922c05b21f99ce8fff6"),
    ("a header of zeros", bytes(240), "4596626538a66e8fa71479f4e53c2925"),
    ("a register body", bytes(256), "651b82f3ddd4fcbf2deb8496e8ff613c"),
    ("a register result", (1_048_320).to_bytes(64, "little"), "b5d20e04fd672c08f88ed62b32da1c19"),
    ("a smaller one", (32_512).to_bytes(64, "little"), "0fcddb536fe210e18b02ae3493ba124f"),
    ("a full body", bytes(1_048_320), "c60f20bd33c6d4721dbb8a59e8264929"),
    ("text", b"tigerbeetle", "9db9afbf8c11c375177365daa72cfc06"),
]


@pytest.mark.parametrize("path", [_check.aegis, _check.aegis_portable])
@pytest.mark.parametrize(("what", "stretch", "tag"), VECTORS, ids=[v[0] for v in VECTORS])
def test_vector(path, what, stretch, tag):
    assert path(stretch).hex() == tag


@pytest.mark.parametrize(("what", "stretch", "tag"), VECTORS, ids=[v[0] for v in VECTORS])
def test_reference_agrees_with_the_vectors(what, stretch, tag):
    if len(stretch) < 1000:  # plain Python is five orders slower
        assert reference_codec.aegis(stretch).hex() == tag


@given(st.binary(max_size=700))
def test_all_three_agree(stretch):
    tag = reference_codec.aegis(stretch)
    assert _check.aegis(stretch) == tag
    assert _check.aegis_portable(stretch) == tag


def test_both_paths_agree_at_every_length_and_alignment():
    stretch = random.Random(1).randbytes(400)
    for start in range(17):
        for end in range(start, 200):
            part = memoryview(stretch)[start:end]
            assert _check.aegis(part) == _check.aegis_portable(part)


def test_any_contiguous_buffer_is_taken_and_no_other():
    assert _check.aegis(bytearray(3)) == _check.aegis(bytes(3))
    with pytest.raises(BufferError):
        _check.aegis(memoryview(bytes(8))[::2])
    with pytest.raises(TypeError):
        _check.aegis("text")


def block_checks(body: bytes, group: int) -> bytes:
    """The definition, in words of the format: block, group number, index; first eight bytes."""
    checks = b""
    for index in range(-(-len(body) // BLOCK_BYTES)):
        block = body[index * BLOCK_BYTES :][:BLOCK_BYTES]
        place = group.to_bytes(8, "little") + index.to_bytes(8, "little")
        checks += _check.aegis(block + place)[:8]
    return checks


@pytest.mark.parametrize("length", [0, 16, 32, 48, 4080, 4096, 4112, 8192, 20_000, 3 * 4096 + 16])
def test_block_checks(length):
    body = random.Random(length).randbytes(length)
    checks = _check.blocks(body, 7)
    assert checks == block_checks(body, 7)
    assert _check.first_bad_block(body, checks, 7) == -1


def test_every_flipped_bit_of_a_body_names_its_block():
    rng = random.Random(2)
    body = bytearray(rng.randbytes(3 * BLOCK_BYTES + 160))
    checks = _check.blocks(body, 1)
    for _ in range(500):
        byte, bit = rng.randrange(len(body)), rng.randrange(8)
        body[byte] ^= 1 << bit
        assert _check.first_bad_block(body, checks, 1) == byte // BLOCK_BYTES
        body[byte] ^= 1 << bit
    assert _check.first_bad_block(body, checks, 1) == -1


def test_a_damaged_check_names_its_block():
    body = bytes(5 * BLOCK_BYTES)
    checks = bytearray(_check.blocks(body, 1))
    checks[8 * 3 + 5] ^= 1
    assert _check.first_bad_block(body, checks, 1) == 3


def test_a_block_in_another_place_is_bad():
    body = bytes(2 * BLOCK_BYTES)  # equal blocks
    checks = _check.blocks(body, 9)
    assert checks[:8] != checks[8:]
    assert _check.first_bad_block(body, checks[8:] + checks[:8], 9) == 0
    assert _check.first_bad_block(body, checks, 10) == 0


@pytest.mark.parametrize(
    ("length", "given_bytes"), [(0, 8), (1, 0), (4096, 16), (4097, 8), (16, 7)]
)
def test_checks_of_another_length_are_refused(length, given_bytes):
    with pytest.raises(ValueError, match=f"{given_bytes} bytes of checks for a body of {length}"):
        _check.first_bad_block(bytes(length), bytes(given_bytes), 1)


def test_group_number_is_64_bits():
    assert _check.blocks(b"x", 2**64 - 1) == block_checks(b"x", 2**64 - 1)
    for group in (-1, 2**64):
        with pytest.raises(OverflowError):
            _check.blocks(b"x", group)
