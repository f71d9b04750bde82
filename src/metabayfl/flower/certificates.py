"""Keys and certificates of a federation: an authority of its own, a certificate for the server, and a key pair for every site.

Sites know the server by the authority's certificate, the server knows sites by their public keys (elliptic curve P-384, as Flower asks for).
"""

from __future__ import annotations

import datetime
import importlib
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metabayfl.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PRIVATE, PUBLIC = 0o600, 0o644

_CLOCKS = datetime.timedelta(hours=1)
"""How far a certificate's beginning lies back, for machines whose clocks differ."""


class Pair(NamedTuple):
    """A private key and what is public of it, both as they are written to files."""

    private: bytes
    public: bytes


def crypto(module: str) -> Any:
    """A module of ``cryptography``.

    Raises:
        ConfigError: says what to install.
    """
    try:
        return importlib.import_module(f"cryptography.{module}")
    except ImportError as error:
        raise ConfigError(f"keys and certificates need cryptography: install it with  pip install 'metabayfl[flower]'  ({error})") from error


def authority(days: int) -> Pair:
    """A new authority: its key, and its certificate that it signed itself."""
    key = _new_key()
    return Pair(_pem(key), _certificate(key, key, "metabayfl federation", "metabayfl federation", days, _authority_extensions()))


def server(issuer: Pair, hosts: Sequence[str], days: int) -> Pair:
    """A server's key, and its certificate for the names and addresses under which it is reached.

    Args:
        issuer: the authority.
        hosts: names and IP addresses.
        days: how long it holds.

    Example:
        >>> made = server(authority(2), ["localhost", "127.0.0.1"], 1)
        >>> crypto("x509").load_pem_x509_certificate(made.public).subject.rfc4514_string()
        'CN=localhost'
    """
    serialization = crypto("hazmat.primitives.serialization")
    key = _new_key()
    signer = serialization.load_pem_private_key(issuer.private, None)
    return Pair(_pem(key), _certificate(key, signer, hosts[0], "metabayfl federation", days, _server_extensions(hosts)))


def site() -> Pair:
    """A site's key pair in OpenSSH's format, which Flower reads."""
    serialization = crypto("hazmat.primitives.serialization")
    key = _new_key()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return Pair(private, public + b"\n")


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not be there yet; one with a secret is never readable for others, not even for a moment.

    Raises:
        StorageError: if it is there, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise StorageError(f"{path} is there already, and keys are never overwritten: choose another folder") from error
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}") from error


def _new_key() -> EllipticCurvePrivateKey:
    ec = crypto("hazmat.primitives.asymmetric.ec")
    key: EllipticCurvePrivateKey = ec.generate_private_key(ec.SECP384R1())
    return key


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    serialization = crypto("hazmat.primitives.serialization")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _certificate(
    key: EllipticCurvePrivateKey, signer: EllipticCurvePrivateKey, name: str, issuer: str, days: int, extensions: list[tuple[Any, bool]]
) -> bytes:
    x509, hashes = crypto("x509"), crypto("hazmat.primitives.hashes")
    serialization = crypto("hazmat.primitives.serialization")
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    data: bytes = builder.sign(signer, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)
    return data


def _named(name: str) -> Any:
    x509 = crypto("x509")
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])


def _authority_extensions() -> list[tuple[Any, bool]]:
    x509 = crypto("x509")
    return [(x509.BasicConstraints(ca=True, path_length=0), True), (_usage(sign_certificates=True), True)]


def _server_extensions(hosts: Sequence[str]) -> list[tuple[Any, bool]]:
    x509 = crypto("x509")
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(sign_certificates=False), True),
        (x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([_alternative(host) for host in hosts]), False),
    ]


def _usage(*, sign_certificates: bool) -> Any:
    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only")
    signing = {"digital_signature": not sign_certificates, "key_cert_sign": sign_certificates, "crl_sign": sign_certificates}
    return crypto("x509").KeyUsage(**dict.fromkeys(names, False), **signing)


def _alternative(host: str) -> Any:
    x509 = crypto("x509")
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
