"""vLLM's configuration and scheduler without a GPU, a network or an engine.

Everything that is slow about vLLM (importing it, its first configuration) is paid once per
process here, and only by those who need it: this module imports vLLM inside its functions.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib.metadata
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ewsjf_env.config import ConfigError, nearest, to_dict
from ewsjf_env.engine.simulated.machine import MODEL_DIRECTORY
from ewsjf_env.engine.stand_in.plugin import SWITCH, register_model
from ewsjf_env.scheduling.tenants import TenantSettings
from ewsjf_env.serving.settings import check_vllm_version


@dataclass(frozen=True)
class VllmSettings:
    """What distinguishes one vLLM configuration of ours from another.

    Attributes:
        model: a folder of `engine/models`.
        max_model_len: longest prompt plus output, tokens.
        max_num_seqs: most running requests.
        max_num_batched_tokens: token budget of a step.
        block_tokens: tokens of a KV block.
        kv_blocks: blocks of the KV cache, one of which vLLM keeps for itself.
        kv_heads, head_size: shape of one layer's cache.
        async_scheduling: schedule a step while the one before is running.
        prefix_caching: share KV blocks of equal prefixes.
        chunked_prefill: a prompt may be computed in several steps.
        long_prefill_token_threshold: most tokens of one prompt in a step; 0: no limit.
        scheduler_seed: for what our scheduler draws at random.
        tenants: how our scheduler shares service among tenants; None: there are none.
    """

    model: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_tokens: int
    kv_blocks: int
    kv_heads: int
    head_size: int
    async_scheduling: bool
    prefix_caching: bool
    chunked_prefill: bool
    long_prefill_token_threshold: int = 0
    scheduler_seed: int = 0
    tenants: TenantSettings | None = None


@dataclass(frozen=True)
class VllmSetup:
    """A `VllmConfig`, its `KVCacheConfig`, and how many steps may be in flight."""

    vllm_config: Any
    kv_cache_config: Any
    concurrent_batches: int


def check_version() -> str:
    """Return the installed vLLM's version; ConfigError when missing or not tested."""
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            "vllm: not installed; scripts/quickstart.sh installs it with or without a GPU"
        ) from None
    check_vllm_version(version)
    return version


@functools.cache
def load_vllm() -> None:
    """Import vLLM once, on the simulated platform unless it is already loaded on another.

    The switch of the platform plug-in is set only while vLLM looks for its platform, so that
    processes started later see the real device.

    Raises:
        ConfigError: vLLM is missing or untested, or does not see our plug-in.
    """
    check_version()
    if "vllm.engine.arg_utils" not in sys.modules:
        _say_wait()
    with _simulated_platform():
        from vllm.engine.arg_utils import EngineArgs  # noqa: F401
        from vllm.platforms import current_platform

        if not current_platform.device_type:
            raise ConfigError(
                "vllm: no device, and the platform plug-in `ewsjf_simulated` is not in force: "
                "install the project with `pip install -e .`, name the plug-in in VLLM_PLUGINS "
                f"where that is set, and set {SWITCH}=1 where vllm is imported before the engine"
            )
        register_model()


def _say_wait() -> None:
    """One line before some 20 s of silence, from the process that a person started."""
    if multiprocessing.parent_process() is None:
        print("loading vLLM ...", file=sys.stderr, flush=True)


@functools.lru_cache(maxsize=32)
def build_setup(settings: VllmSettings) -> VllmSetup:
    """Make the configuration; the same settings give the same object.

    Raises:
        ConfigError: vLLM refuses the settings, with vLLM's reason.
    """
    load_vllm()
    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    folder = MODEL_DIRECTORY / settings.model
    if not (folder / "config.json").is_file():
        names = [path.name for path in MODEL_DIRECTORY.iterdir()]
        raise ConfigError(f"model: unknown {settings.model!r}{nearest(settings.model, names)}")
    with _simulated_platform():
        try:
            vllm_config = EngineArgs(
                model=str(folder),
                skip_tokenizer_init=True,
                load_format="dummy",
                # The shape is the model's; its class is our stand-in and its context as long as
                # the traffic needs, since only lengths matter to a scheduler.
                hf_overrides={
                    "architectures": ["EwsjfSimulatedModel"],
                    "max_position_embeddings": settings.max_model_len,
                },
                max_model_len=settings.max_model_len,
                max_num_seqs=settings.max_num_seqs,
                max_num_batched_tokens=settings.max_num_batched_tokens,
                block_size=settings.block_tokens,
                enable_prefix_caching=settings.prefix_caching,
                enable_chunked_prefill=settings.chunked_prefill,
                long_prefill_token_threshold=settings.long_prefill_token_threshold,
                async_scheduling=settings.async_scheduling,
                additional_config={"ewsjf": _ewsjf_settings(settings)},
            ).create_engine_config()
        except (ValueError, NotImplementedError) as error:
            raise ConfigError(f"vllm refuses: {' '.join(str(error).split())}") from None
    _check_taken(vllm_config, settings)
    vllm_config.cache_config.num_gpu_blocks = settings.kv_blocks
    spec = FullAttentionSpec(
        block_size=settings.block_tokens,
        num_kv_heads=settings.kv_heads,
        head_size=settings.head_size,
        dtype=torch.float16,
    )
    kv_cache_config = KVCacheConfig(
        num_blocks=settings.kv_blocks,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
    )
    _freeze_heap()
    return VllmSetup(vllm_config, kv_cache_config, int(vllm_config.max_concurrent_batches))


def build_scheduler(setup: VllmSetup, scheduler_class: type[Any]) -> Any:
    """A fresh scheduler with an empty KV cache, as vLLM's EngineCore would construct it."""
    from vllm.v1.structured_output import StructuredOutputManager

    block_tokens = setup.vllm_config.cache_config.block_size
    return scheduler_class(
        vllm_config=setup.vllm_config,
        kv_cache_config=setup.kv_cache_config,
        structured_output_manager=StructuredOutputManager(setup.vllm_config),
        block_size=block_tokens,
        hash_block_size=block_tokens,
        log_stats=False,
    )


def stock_scheduler_class(async_scheduling: bool) -> type[Any]:
    """The scheduler class of vLLM itself."""
    load_vllm()
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    chosen: type[Any] = AsyncScheduler if async_scheduling else Scheduler
    return chosen


def ewsjf_scheduler_class(async_scheduling: bool) -> type[Any]:
    """Our scheduler class."""
    load_vllm()
    from ewsjf_env.serving.scheduler import EWSJFScheduler, SyncEWSJFScheduler

    chosen: type[Any] = EWSJFScheduler if async_scheduling else SyncEWSJFScheduler
    return chosen


def _ewsjf_settings(settings: VllmSettings) -> dict[str, Any]:
    """The settings of our scheduler, as an operator would give them."""
    tenants = {} if settings.tenants is None else {"tenants": to_dict(settings.tenants)}
    return {"seed": settings.scheduler_seed, **tenants}


def block_hasher(setup: VllmSetup) -> Any:
    """The function of vLLM from a request to its block hashes; None without prefix caching."""
    cache_config = setup.vllm_config.cache_config
    if not cache_config.enable_prefix_caching:
        return None
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher

    hash_function = _hash_function(cache_config.prefix_caching_hash_algo)
    return get_request_block_hasher(cache_config.block_size, hash_function)


@functools.cache
def _hash_function(name: str) -> Any:
    """The hash of that name, with the root of all block hashes set.

    Once per process: some releases draw a random root, and a second one would cut off the
    blocks that a running scheduler has cached.
    """
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import init_none_hash

    hash_function = get_hash_fn_by_name(name)
    init_none_hash(hash_function)
    return hash_function


def _check_taken(vllm_config: Any, settings: VllmSettings) -> None:
    """A setting that vLLM silently changed would make the simulation another one."""
    scheduler, cache = vllm_config.scheduler_config, vllm_config.cache_config
    taken = {
        "async_scheduling": bool(scheduler.async_scheduling),
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "chunked_prefill": bool(scheduler.enable_chunked_prefill),
        "long_prefill_token_threshold": scheduler.long_prefill_token_threshold,
        "max_model_len": vllm_config.model_config.max_model_len,
        "block_tokens": cache.block_size,
        "prefix_caching": bool(cache.enable_prefix_caching),
    }
    for name, value in taken.items():
        if value != getattr(settings, name):
            raise ConfigError(f"{name}: vllm turned {getattr(settings, name)!r} into {value!r}")


@functools.cache
def _freeze_heap() -> None:
    """What vLLM has built by now lives on: keep the garbage collector from walking it.

    Undone at exit, since extension modules report everything that is never collected.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)


@contextlib.contextmanager
def _simulated_platform() -> Iterator[None]:
    """Environment and warning filters under which vLLM is imported and configured.

    vLLM is quiet unless VLLM_LOGGING_LEVEL says otherwise, and deprecation warnings of its
    dependencies are not ours to report.  Everything is put back afterwards.
    """
    changes = {
        SWITCH: "1",
        "VLLM_TARGET_DEVICE": None,
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    }
    before = {name: os.environ.get(name) for name in changes}
    try:
        _set_variables(changes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _set_variables(before)


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
