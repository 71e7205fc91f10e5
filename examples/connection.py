"""How every example reaches the gateway: an OpenAI client and the names of models, from the command line.

Options: `--base-url`, `--model`, `--chat-model`, and the key itself (`--key`) or the file that holds it
(`--key-file`). The default file is the one that `embedgate serve` writes on its first start on Linux.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI

KEY_FILE = Path("~/.local/share/embedgate/user.key")


@dataclass(frozen=True)
class Connection:
    """What an example needs to know of the gateway."""

    base_url: str
    key: str
    model: str
    chat_model: str

    def client(self) -> OpenAI:
        """The OpenAI client, pointed at the gateway."""
        return OpenAI(base_url=self.base_url, api_key=self.key)


def from_command_line(description: str | None) -> Connection:
    """The connection that the options describe. description: what `--help` says of the example."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://127.0.0.1:3100/v1", help="address of the gateway")
    parser.add_argument("--key", help="key of the gateway")
    parser.add_argument("--key-file", type=Path, default=KEY_FILE, help="file with the key (default: %(default)s)")
    parser.add_argument("--model", default="local/all-minilm-l6-v2", help="id of a model (default: %(default)s)")
    parser.add_argument("--chat-model", default="openai/gpt-4o-mini", help="id of a chat model (default: %(default)s)")
    options = parser.parse_args()
    key_file = options.key_file.expanduser()
    if options.key is None and not key_file.is_file():
        parser.error(f"there is no key in {key_file}; give --key, or --key-file with the file that the gateway named")
    key = options.key or key_file.read_text().strip()
    return Connection(options.base_url, key, options.model, options.chat_model)
