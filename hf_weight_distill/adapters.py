"""PEFT adapters at both ends: a teacher's are merged before anything reads its weights, a student's after phase 2.

``peft`` is imported when it is needed: ``pip install "hf_weight_distill[peft]"``.
"""

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from .config import check_names
from .families import family_of

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

IN_MEMORY = "an adapter in memory"  # the name of a teacher whose adapter was not loaded by us
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_TOLERANCE = 5e-3  # of the largest logit; merging moves logits by about 1e-6 of it, with a GPU's TF32 by 5e-4


@dataclass(frozen=True)
class MergedAdapter:
    """What was merged into a teacher; it carries this as its attribute ``merged_adapter``.

    Args:
        kind: ``"LORA"``, ``"IA3"``, ... as PEFT names it.
        base: repository or folder of the model that the adapter was trained on; empty if it has no name.
    """

    kind: str
    base: str


# --- the teacher's --------------------------------------------------------------------------------------------------


def load_teacher(name_or_path: str, **kwargs: Any) -> PreTrainedModel:
    """A teacher from the Hub or a folder; if an adapter lies there, its base model with the adapter merged.

    Args:
        name_or_path: repository or folder of a model or of an adapter.
        kwargs: of ``from_pretrained``; ``dtype`` is float32 unless it is given.

    Raises:
        ValueError: no encoder-decoder of a known family, a base that cannot be had, an adapter that cannot be merged.

    Example:
        >>> teacher = load_teacher("me/opus-mt-en-ro-medicine-lora")    # doctest: +SKIP
        >>> teacher.merged_adapter.base                                 # doctest: +SKIP
        'Helsinki-NLP/opus-mt-en-ro'
    """
    options = {"dtype": torch.float32} | kwargs
    config = _adapter_config(name_or_path, kwargs)
    if config is None:
        family_of(AutoConfig.from_pretrained(name_or_path, **kwargs))
        return AutoModelForSeq2SeqLM.from_pretrained(name_or_path, **options)
    _check_kind(config)
    try:
        family_of(AutoConfig.from_pretrained(config.base_model_name_or_path or "", **_of_base(config, kwargs)))
    except OSError as error:
        raise ValueError(
            f"the adapter {name_or_path} belongs to the model {config.base_model_name_or_path!r}, which cannot be "
            f"loaded ({str(error).splitlines()[0]}): correct base_model_name_or_path in its adapter_config.json, or "
            f"load the base yourself and pass PeftModel.from_pretrained(base, {name_or_path!r})"
        ) from error
    peft = _peft("an adapter")
    if config.task_type is None and not config.auto_mapping:  # as Transformers itself saves adapters
        base = AutoModelForSeq2SeqLM.from_pretrained(config.base_model_name_or_path, **_of_base(config, options))
        model = peft.PeftModel.from_pretrained(base, name_or_path, **hub_options(kwargs))
    else:
        model = peft.AutoPeftModelForSeq2SeqLM.from_pretrained(name_or_path, **options)
    teacher = merge_adapters(model, in_place=True)
    teacher.name_or_path = name_or_path
    return teacher


def hub_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``from_pretrained`` that say where to find files, and nothing of the model."""
    return {name: value for name, value in kwargs.items() if name in _HUB_OPTIONS}


def load_tokenizer(name_or_path: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; of an adapter without one of its own: that of its base.

    Args:
        name_or_path: repository or folder of a model or of an adapter.
        kwargs: of ``from_pretrained``.
    """
    config = _adapter_config(name_or_path, kwargs)
    if config is None or _has_file(name_or_path, "tokenizer_config.json", kwargs):
        return AutoTokenizer.from_pretrained(name_or_path, **kwargs)
    return AutoTokenizer.from_pretrained(config.base_model_name_or_path, **_of_base(config, kwargs))


def is_adapted(model: nn.Module) -> bool:
    """Whether a model is a ``PeftModel`` or a Transformers model with adapters inside."""
    return isinstance(getattr(model, "peft_config", None), Mapping)


def merge_adapters(model: nn.Module, in_place: bool = False) -> PreTrainedModel:
    """The model with the active adapters merged into its weights: ``W + (alpha / r) B A`` for LoRA.

    Args:
        model: a ``PeftModel`` or a Transformers model with adapters inside; a model without any is returned as it is.
        in_place: uses up ``model``; otherwise a copy is merged and the user's own model stays as it is.

    Returns:
        A stock model in evaluation mode that computes the same logits, with ``merged_adapter`` as an attribute.

    Raises:
        ValueError: the adapter adds no weights (prompt tuning), its method cannot merge, or the model would compute
            something else afterwards.
    """
    if not is_adapted(model):
        return model
    peft = _peft("an adapter")
    config = next(iter(model.peft_config.values()))
    _check_kind(config)
    _check_ties(model)
    model = (model if in_place else copy.deepcopy(model)).eval()
    before, tied = probe_logits(model), model.config.tie_word_embeddings
    try:
        with _quiet():
            merged = model.merge_and_unload(safe_merge=True) if isinstance(model, peft.PeftModel) else _unloaded(model)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"the {config.peft_type.value} adapter cannot be merged into the weights: {error}") from error
    merged.config.tie_word_embeddings = tied
    _check_merged(merged, before)
    for parameter in merged.parameters():  # PEFT leaves them all frozen
        parameter.requires_grad_(True)
    merged.merged_adapter = MergedAdapter(config.peft_type.value, config.base_model_name_or_path or "")
    merged.name_or_path = IN_MEMORY
    return merged


def _unloaded(model: PreTrainedModel) -> PreTrainedModel:
    """Merges adapters that ``load_adapter`` or ``from_pretrained`` of Transformers put inside, without a PeftModel."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            setattr(model.get_submodule(parent), leaf, module.get_base_layer())
        elif hasattr(module, "unload_and_optionally_merge_module"):
            whole = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
            setattr(model.get_submodule(parent), leaf, whole)
    del model.peft_config
    model._hf_peft_config_loaded = False
    return model


def _check_kind(config: "PeftConfig") -> None:
    if config.is_prompt_learning:
        raise ValueError(
            f"a {config.peft_type.value} adapter feeds learned inputs to the model and changes no weights, which are "
            "what a student is made from: use a LoRA adapter, or the base model alone"
        )


def _check_ties(model: nn.Module) -> None:
    """An adapter on one of two tied weights would move both when it is merged."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for shared in names.values():
        if len(shared) > 1 and any(".base_layer." in name for name in shared):
            found = next(name for name in shared if ".base_layer." in name).partition(".base_layer.")[0]
            raise ValueError(
                f"the adapter targets {found}, whose weights are tied to other modules: merging would move those, too. "
                "Leave embeddings and lm_head out of target_modules"
            )


def _check_kept_ties(merged: PreTrainedModel) -> None:
    tied = {alias: owner for alias, owner in merged.all_tied_weights_keys.items() if alias != owner}
    apart = [a for a, o in tied.items() if merged.get_parameter(a) is not merged.get_parameter(o)]
    if apart:
        raise ValueError(
            f"the adapter trained {', '.join(apart)} apart from the weights that the {type(merged).__name__} ties it "
            "to, and a student would tie them again: train the adapter without modules_to_save for them"
        )


def _check_merged(merged: PreTrainedModel, before: Tensor) -> None:
    _check_kept_ties(merged)
    difference, largest = (probe_logits(merged) - before).abs().max(), before.abs().max()
    if not difference <= _TOLERANCE * largest:
        raise ValueError(
            f"with the adapter merged the model computes other logits (difference {difference:.1e}, largest logit "
            f"{largest:.1e}): this adapter cannot be expressed as weights"
        )


@torch.no_grad()
def probe_logits(model: nn.Module) -> Tensor:
    """Logits on a few tokens, ``(1, tokens, vocabulary)``, to tell whether two models are the same."""
    ids = torch.arange(2, min(model.config.vocab_size - 1, 18), device=model.device).view(1, -1)
    return model(input_ids=ids, decoder_input_ids=ids).logits


def _adapter_config(name: str, kwargs: Mapping[str, Any]) -> "PeftConfig | None":
    """``None`` where no adapter lies."""
    options = hub_options(kwargs)
    if find_adapter_config_file(name, **options) is None:
        return None
    return _peft(f"{name} is an adapter, which").PeftConfig.from_pretrained(name, **options)


def _of_base(config: "PeftConfig", kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Options for the base: the revision is not the adapter's."""
    revision = {"revision": config.revision} if config.revision else {}
    return {key: value for key, value in kwargs.items() if key not in ("revision", "subfolder")} | revision


def _has_file(name: str, file: str, kwargs: Mapping[str, Any]) -> bool:
    return cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub_options(kwargs)) is not None


# --- the student's --------------------------------------------------------------------------------------------------


def add_lora(
    student: PreTrainedModel, linear: Iterable[str], options: Mapping[str, Any], base: Path | None = None
) -> "PeftModel":
    """The student with LoRA adapters, which alone are trained; :func:`merge_adapters` makes it stock again.

    Args:
        student: it is wrapped, not copied.
        linear: names of its attention and feed-forward matrices, what ``target_modules`` is by default. PEFT itself
            knows no targets for Marian and M2M100.
        options: of ``peft.LoraConfig``.
        base: the student's folder, which checkpoints of the adapters name as what they belong to.

    Raises:
        ValueError: ``peft`` is missing, or the options do not fit.
    """
    peft = _peft("finetune_lora")
    check_names("finetune_lora", options, [field.name for field in dataclasses.fields(peft.LoraConfig) if field.init])
    leaves = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in linear})
    try:
        config = peft.LoraConfig(**{"target_modules": leaves} | dict(options))
        with _quiet():
            model = peft.get_peft_model(student, config)
        _check_ties(model)
    except (TypeError, ValueError) as error:
        raise ValueError(f"finetune_lora={dict(options)}: {error}") from error
    if base is not None:
        config.base_model_name_or_path = str(base)
    return model


def check_lora(shell: PreTrainedModel, linear: Iterable[str], options: Mapping[str, Any]) -> None:
    """Whether a student takes these adapters and can be rid of them again, tried on one without weights.

    Args:
        shell: on the meta device; it is used up.
        linear, options: as for :func:`add_lora`.

    Raises:
        ValueError: no.
    """
    drawn = {"init_lora_weights": True} if "init_lora_weights" in options else {}  # some ways look at the weights
    model = add_lora(shell, linear, {**options, **drawn})
    with _quiet():
        _check_kept_ties(model.merge_and_unload())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without PEFT's warnings about nothing that a user can change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        # said of a head that was loaded untied (T5 v1.1) as well
        warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
        yield


def _peft(what: str) -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise ValueError(f'{what} needs peft, which is not installed: pip install "hf_weight_distill[peft]"') from error
    return peft
