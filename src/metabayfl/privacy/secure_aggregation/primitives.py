"""The four primitives, nothing of our own making: X25519, HKDF-SHA256, ChaCha20 and AES-256-GCM, all from ``cryptography``.

X25519 (RFC 7748) agrees on secrets, HKDF-SHA256 (RFC 5869) makes keys of them, one for each purpose, ChaCha20 (RFC 8439) turns a key into a long
mask, AES-256-GCM (SP 800-38D) carries shares from client to client past the server. ChaCha20 needs no special instructions to be fast and to take the
same time whatever the key, which AES does on old phones and small servers.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from metabayfl.errors import ArtifactError, ConfigError

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as error:
    raise ConfigError(f"secure aggregation needs cryptography: install it with  pip install 'metabayfl[privacy]'  ({error}).") from error

KEY_BYTES = 32
"""Length of every key, secret, public key and seed."""

NONCE_BYTES, TAG_BYTES = 12, 16

_COUNTER_AND_NONCE = bytes(16)  # a mask key makes one stream only, so both may start at zero


def fresh() -> bytes:
    """A secret from the operating system's generator."""
    return secrets.token_bytes(KEY_BYTES)


def public_key(secret: bytes) -> bytes:
    """The X25519 public key of a secret."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agreement(secret: bytes) -> Callable[[bytes], bytes]:
    """X25519: from somebody's public key what only the owners of the two secrets can compute. Loading a secret costs as much as one use of it.

    The function raises ArtifactError for a point of small order, with which everybody could compute the result (RFC 7748, section 6.1).
    """
    key = X25519PrivateKey.from_private_bytes(secret)

    def agree(public: bytes) -> bytes:
        try:
            return key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise ArtifactError(
                f"the public key {public.hex()} is no usable X25519 key ({error}): the client that sent it must be left out"
            ) from error

    return agree


def context(purpose: str, session: bytes, number: int, *parties: str) -> bytes:
    """What a key is for, in bytes: no two purposes, sessions, rounds or parties give the same ones, as every part shows where it ends."""
    about = purpose.encode() + b"\0" + session + number.to_bytes(4, "little")
    for party in parties:
        name = party.encode()
        about += len(name).to_bytes(2, "little") + name
    return about


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256: extract and expand (RFC 5869, section 2)."""
    return HKDF(SHA256(), length, salt, info).derive(secret)


def derive(secret: bytes, about: bytes, length: int = KEY_BYTES) -> bytes:
    """``length`` bytes that only the secret's owners can compute, other ones for every other ``about`` (:func:`hkdf` without a salt).

    Example:
        >>> first, second = (derive(bytes(32), context("mask", bytes(16), number)) for number in (1, 2))
        >>> len(first), first == second
        (32, False)
    """
    return hkdf(secret, b"", b"metabayfl secure aggregation v1" + about, length)


def stream(key: bytes) -> CipherContext:
    """ChaCha20 from its beginning: what it makes of zeros is the keystream. A key is for one stream."""
    return Cipher(algorithms.ChaCha20(key, _COUNTER_AND_NONCE), None).encryptor()


def keystream(key: bytes, count: int) -> bytes:
    """The first ``count`` bytes of :func:`stream`."""
    return stream(key).update(bytes(count))


def encrypt(key: bytes, nonce: bytes, text: bytes, about: bytes) -> bytes:
    """AES-256-GCM: the nonce, the hidden text and a tag that also covers ``about``, which is not sent."""
    return nonce + AESGCM(key).encrypt(nonce, text, about)


def decrypt(key: bytes, sealed: bytes, about: bytes) -> bytes:
    """The inverse of :func:`encrypt`.

    Raises:
        ArtifactError: if the bytes were altered, or were meant for another receiver, session or round.
    """
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about)
    except InvalidTag as error:
        raise ArtifactError("encrypted shares were altered, or meant for another client or round: they are not used") from error
