"""Encryption of stored secrets under a master key outside the database: AES-256-GCM, bound to a name."""

import os
import re
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from embedgate.core.errors import ConfigError
from embedgate.storage.folder import writable, write_private

MASTER_KEY_FILE = "secrets.key"
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")
_KEY_BYTES = 32
_NONCE_BYTES = 12
_FORM = b"\x01"
"""First byte of a sealed value: the version of the format."""


class Sealer:
    """Encrypts and decrypts small texts."""

    def __init__(self, data_dir: Path, master_key: str | None = None) -> None:
        """data_dir: folder of the master key's file, which is made when first needed (mode 0600).

        master_key: 64 hex digits, instead of the file. Raises ConfigError if it is anything else.
        """
        self._file = data_dir / MASTER_KEY_FILE
        self._given = None if master_key is None else _parsed(master_key, "the master key that was set")

    def seal(self, name: str, secret: str) -> bytes:
        """Encrypt `secret` so that only `unseal` with the same name decrypts it.

        Makes the master key's file if there is none; so call it in a writing transaction, which keeps others from
        making another. Raises ConfigError if the file cannot be read or written.
        """
        with writable(self._file.parent):
            if self._given is None and not self._file.exists():
                write_private(self._file, secrets.token_hex(_KEY_BYTES) + "\n")
        nonce = os.urandom(_NONCE_BYTES)
        return _FORM + nonce + AESGCM(self._master_key()).encrypt(nonce, secret.encode(), _bound_to(name))

    def unseal(self, name: str, sealed: bytes) -> str:
        """Decrypt what was sealed under `name`. Raises ConfigError if the master key is missing or another one."""
        nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if not sealed.startswith(_FORM) or not ciphertext:
                raise InvalidTag
            return AESGCM(self._master_key()).decrypt(nonce, ciphertext, _bound_to(name)).decode()
        except InvalidTag as error:
            source = f"in {self._file}" if self._given is None else "that was set"
            raise ConfigError(
                [
                    f"the stored key of provider {name} cannot be opened: the master key {source} is not the one that "
                    "it was sealed with; bring that one back, or remove the stored provider keys and set them anew"
                ]
            ) from error

    def _master_key(self) -> bytes:
        if self._given is not None:
            return self._given
        try:
            text = self._file.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError as error:
            raise ConfigError(
                [
                    f"there is no master key {self._file}, which stored provider keys are sealed with; bring it back "
                    "from a backup, or remove the stored provider keys and set them anew"
                ]
            ) from error
        except OSError as error:
            raise ConfigError([f"the master key {self._file} cannot be read: {error.strerror or error}"]) from error
        return _parsed(text.strip(), f"the master key in {self._file}")


def _parsed(text: str, what: str) -> bytes:
    if not _HEX_KEY.fullmatch(text):
        raise ConfigError(
            [f"{what} has {len(text)} characters; it must be 64 hexadecimal digits, as `openssl rand -hex 32` prints"]
        )
    return bytes.fromhex(text)


def _bound_to(name: str) -> bytes:
    return b"embedgate provider key\0" + name.encode()
