"""A MODEL folder without weights: the preset's shape and a tokenizer of our own.

A folder with the preset's shape (config.json) and a tokenizer of our own: one token per word
between spaces, `w0 w1 w2 ...` known and every other word the token `<unk>`.  A text of n words
is a prompt of n tokens and n tokens decode to n words, so benchmarks that draw random tokens,
send text and count words get the lengths they asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ewsjf_env.config import ConfigError, nearest
from ewsjf_env.engine.simulated.latency import LatencyModel
from ewsjf_env.engine.simulated.machine import MODEL_DIRECTORY

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
FIRST_WORD_TOKEN = len(SPECIAL_TOKENS)
WORD_TOKENS = 8192
LONGEST_MODEL_LEN = 1 << 20  # of the folder; `--max-model-len` is what is served
# One line per message; what a chat costs is about what its words cost.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
)


def model_folder(latency: str, folder: str | Path | None = None, real: bool = False) -> Path:
    """The model folder that goes with a latency model; made where it is not there yet.

    Args:
        latency: preset name or path of a latency JSON file.
        folder: where to write; None is a folder of the user's cache, named by its content.
        real: for a real device with random weights (`--load-format dummy`): the model's own
            architecture, and a word for every token that it can make up.

    Returns:
        An absolute path whose last part is the model's name.

    Raises:
        ConfigError: unknown preset or model, or a folder that cannot be written.
    """
    name = LatencyModel.load(latency).machine.model.name
    config = _config(name, real)
    word_tokens = config["vocab_size"] - FIRST_WORD_TOKEN if real else WORD_TOKENS
    if folder is None:
        content = json.dumps([config, word_tokens, _CHAT_TEMPLATE], sort_keys=True)
        target = _cache() / hashlib.sha256(content.encode()).hexdigest()[:12] / name
    else:
        target = Path(folder)
    target = target.absolute()
    if not (target / "config.json").is_file():
        try:
            _write(target, config, word_tokens)
        except OSError as error:
            raise ConfigError(f"model folder {target}: cannot be written: {error}") from None
    return target


def words(count: int, first: int = 0) -> str:
    """A text of `count` tokens >= 1; `first` chooses the words, so that texts can differ."""
    return " ".join(f"w{(first + index) % WORD_TOKENS}" for index in range(count))


def _config(name: str, real: bool) -> dict[str, Any]:
    path = MODEL_DIRECTORY / name / "config.json"
    if not path.is_file():
        names = [found.name for found in MODEL_DIRECTORY.iterdir()]
        raise ConfigError(f"model: no config.json of {name!r}{nearest(name, names)}")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if real:
        return config
    config.pop("rope_scaling", None)  # lengths are not limited by what the weights can do
    return config | {
        "architectures": ["EwsjfSimulatedModel"],
        "max_position_embeddings": LONGEST_MODEL_LEN,
        "bos_token_id": SPECIAL_TOKENS.index("<s>"),
        "eos_token_id": SPECIAL_TOKENS.index("</s>"),
        "vocab_size": max(config["vocab_size"], FIRST_WORD_TOKEN + WORD_TOKENS),
    }


def _write(target: Path, config: dict[str, Any], word_tokens: int) -> None:
    """Each file appears whole, and config.json last: it says that the folder is complete."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    vocabulary |= {f"w{index}": FIRST_WORD_TOKEN + index for index in range(word_tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # `w1` `w2` -> "w1 w2", also when tokens arrive one by one.
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": LONGEST_MODEL_LEN,
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    target.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("tokenizer.json", tokenizer.to_str()),
        ("tokenizer_config.json", json.dumps(settings, indent=2)),
        ("config.json", json.dumps(config, indent=2)),
    ):
        with tempfile.NamedTemporaryFile("w", dir=target, delete=False, encoding="utf-8") as file:
            file.write(text)
        Path(file.name).chmod(0o644)
        Path(file.name).replace(target / name)


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ewsjf_env" / "models"
