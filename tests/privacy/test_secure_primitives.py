"""X25519, HKDF, ChaCha20 and AES-GCM as this package calls them, against the vectors of their standards."""

from __future__ import annotations

import runpy
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabayfl.errors import ArtifactError, ConfigError
from metabayfl.privacy.secure_aggregation import primitives
from metabayfl.privacy.secure_aggregation.primitives import agreement, context, decrypt, derive, encrypt, fresh, hkdf, keystream, public_key

raw = bytes.fromhex


@pytest.mark.parametrize(
    ("scalar", "point", "result"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_x25519_has_the_results_of_rfc_7748_section_5(scalar: str, point: str, result: str) -> None:
    assert agreement(raw(scalar))(raw(point)) == raw(result)


def test_x25519_repeated_a_thousand_times_has_the_results_of_rfc_7748_section_5() -> None:
    k = u = raw("09".ljust(64, "0"))
    for step in range(1, 1001):
        k, u = agreement(k)(u), k
        if step == 1:
            assert k == raw("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")
    assert k == raw("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51")


def test_diffie_and_hellman_agree_as_in_rfc_7748_section_6() -> None:
    alice = raw("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = raw("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert public_key(alice) == raw("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert public_key(bob) == raw("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    shared = raw("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert agreement(alice)(public_key(bob)) == agreement(bob)(public_key(alice)) == shared


@pytest.mark.parametrize("point", ["00" * 32, "01".ljust(64, "0"), "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"])
def test_points_of_small_order_are_refused(point: str) -> None:
    with pytest.raises(ArtifactError, match="no usable X25519 key"):
        agreement(fresh())(raw(point))


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ArtifactError, match="no usable X25519 key"):
        agreement(fresh())(bytes(31))


@pytest.mark.parametrize(
    ("secret", "salt", "info", "okm"),
    [
        (
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(80)).hex(),
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
            "cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        ("0b" * 22, "", "", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
    ],
)
def test_hkdf_has_the_results_of_rfc_5869_appendix_a(secret: str, salt: str, info: str, okm: str) -> None:
    assert hkdf(raw(secret), raw(salt), raw(info), len(okm) // 2) == raw(okm)


@pytest.mark.parametrize(
    ("key", "block", "stream"),
    [
        (
            "00" * 32,
            0,
            "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
        ),
        (
            "00" * 32,
            1,
            "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
        ),
        (
            "01".rjust(64, "0"),
            1,
            "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
        ),
        (
            "00ff".ljust(64, "0"),
            2,
            "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
        ),
    ],
)
def test_chacha20_has_the_keystream_of_rfc_8439_appendix_a(key: str, block: int, stream: str) -> None:
    assert keystream(raw(key), 64 * (block + 1))[-64:] == raw(stream)


GCM_KEY = "feffe9928665731c6d6a8f9467308308" * 2


@pytest.mark.parametrize(
    ("key", "nonce", "text", "about", "hidden", "tag"),
    [
        ("00" * 32, "00" * 12, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        ("00" * 32, "00" * 12, "00" * 16, "", "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"),
        (
            GCM_KEY,
            "cafebabefacedbaddecaf888",
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            "76fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ],
)
def test_aes_gcm_has_the_results_of_its_specification(key: str, nonce: str, text: str, about: str, hidden: str, tag: str) -> None:
    """Test cases 13, 14 and 16 of the algorithm's submission, on which SP 800-38D rests."""
    sealed = encrypt(raw(key), raw(nonce), raw(text), raw(about))
    assert sealed == raw(nonce + hidden + tag)
    assert decrypt(raw(key), sealed, raw(about)) == raw(text)


def test_what_was_encrypted_opens_only_unaltered_and_in_its_place() -> None:
    key, sealed = bytes(32), encrypt(bytes(32), bytes(12), b"shares", b"a to b")
    for i in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[i // 8] ^= 1 << i % 8
        with pytest.raises(ArtifactError, match="altered"):
            decrypt(key, bytes(altered), b"a to b")
    for other, about in ((key, b"a to c"), (b"\1" + key[1:], b"a to b")):
        with pytest.raises(ArtifactError, match="meant for another client"):
            decrypt(other, sealed, about)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["mask", "maskb", "share"]),
            st.binary(min_size=16, max_size=16),
            st.integers(0, 2**32 - 1),
            st.lists(st.text("abc", max_size=3)),
        ),
        min_size=2,
        max_size=2,
        unique_by=repr,
    )
)
def test_contexts_differ_where_anything_differs(pair: list[tuple[str, bytes, int, list[str]]]) -> None:
    one, other = (context(purpose, session, number, *parties) for purpose, session, number, parties in pair)
    assert one != other
    assert derive(bytes(32), one) != derive(bytes(32), other)


def test_secrets_are_fresh() -> None:
    assert len({fresh() for _ in range(100)}) == 100


def test_without_cryptography_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(ConfigError, match=r"secure aggregation needs cryptography: install it with  pip install 'metabayfl\[privacy\]'"):
        runpy.run_path(str(primitives.__file__))
