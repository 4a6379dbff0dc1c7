"""Which library multiplies float32 matrices on a CPU: MKL leaves half of some processors of AMD idle."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from rlhf_lightning.errors import UserError
from rlhf_lightning.functional.processor import processor

CHOICES = ("auto", "torch", "onednn")
_LEAST = 2**21  # multiplications; with fewer, the call of oneDNN costs more than it saves

_registered: list[torch.library.Library] = []  # what is in it stays in force
_enabled = False


def choose_cpu_matmul(choice: str = "auto") -> str:
    """Let oneDNN multiply float32 matrices on the CPU, in this whole process, or torch's own choice, which is MKL.

    MKL does not use AVX-512 on processors of AMD. Where those compute 512 bits at a time (Zen 5; Zen 4 takes two
    turns), oneDNN, which comes with torch and multiplies bfloat16 already, is twice as fast. Results differ in
    rounding. It holds for ``mm`` and ``addmm``, and so for linear layers and their gradients, but for the forward pass
    of a compiled layer with a bias; not for batches of products. Where torch is asked for less than full precision
    (``torch.set_float32_matmul_precision``) it is left to torch. Every new shape keeps memory, a megabyte or more: fill
    batches of your own up to few sizes. A trainer of :func:`~rlhf_lightning.modules.make_trainer` chooses anew, by its
    own ``cpu_matmul``.

    Args:
        choice: ``torch``, ``onednn``, or ``auto``: oneDNN on processors of AMD from Zen 5 on.

    Returns:
        What is in force: ``torch`` or ``onednn``.

    Raises:
        UserError: no such choice, or ``onednn`` and this torch does not come with it.
    """
    global _enabled
    if choice not in CHOICES:
        raise UserError(f"trainer.cpu_matmul={choice!r} is none of {', '.join(CHOICES)}")
    missing = missing_onednn()
    if choice == "onednn" and missing:
        raise UserError(f"trainer.cpu_matmul=onednn: {missing}; set trainer.cpu_matmul=torch")
    _enabled = choice == "onednn" or (choice == "auto" and not missing and _half_idle())
    if _enabled and not _registered:
        _register()
    return "onednn" if _enabled else "torch"


def multiplies_by_onednn() -> bool:
    """Whether oneDNN is in force."""
    return _enabled


def missing_onednn() -> str | None:
    """What oneDNN's products want and this torch has not."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's own has no types
        return "this torch was built without oneDNN"
    # What torch.compile makes of linear layers; not part of torch's promises.
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return f"torch {torch.__version__} does not offer its products"
    return None


def _half_idle() -> bool:
    """Whether MKL leaves half of this processor's vector units unused."""
    known = processor()
    has_mkl = bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]  # torch's own has no types
    # Instructions that Zen 5 has and Zen 4 has not; no name of a processor says in how many turns it computes.
    in_one_turn = known.get("avx512_vp2intersect") or known.get("avx_vnni")
    return has_mkl and "AMD" in str(known.get("cpu_name")) and bool(known.get("avx512_f") and in_one_turn)


def _register() -> None:
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]  # torch's own has no types
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that kernels are replaced is what is meant
        library.impl("mm", _mm, "CPU")  # type: ignore[no-untyped-call]  # torch's own has no types
        library.impl("mm.out", _mm_out, "CPU")  # type: ignore[no-untyped-call]  # called by what torch.compile makes
        library.impl("addmm", _addmm, "CPU")  # type: ignore[no-untyped-call]  # torch's own has no types
    _registered.append(library)


def _mm(a: Tensor, b: Tensor) -> Tensor:
    return _product(a, b, None) if _suits(a, b) else _own_mm(a, b, a.new_empty(_shape(a, b)))


def _mm_out(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    if out.shape != _shape(a, b):
        out.resize_(_shape(a, b))
    return out.copy_(_product(a, b, None)) if out.dtype == torch.float32 and _suits(a, b) else _own_mm(a, b, out)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    plain = beta == alpha == 1 and bias.dtype == torch.float32 and bias.shape == b.shape[1:] and bias.is_contiguous()
    if plain and _suits(a, b):
        return _product(a, b, bias)
    return torch.addmm(bias, a, b, beta=beta, alpha=alpha, out=a.new_empty(_shape(a, b)))


def _shape(a: Tensor, b: Tensor) -> tuple[int, ...]:
    """Of the product; none where there is none, of which torch tells."""
    return (a.shape[0], b.shape[1]) if a.dim() == b.dim() == 2 else (0,)


def _suits(a: Tensor, b: Tensor) -> bool:
    return (
        _enabled
        and a.dtype == b.dtype == torch.float32
        and a.dim() == b.dim() == 2
        and a.shape[1] == b.shape[0]
        and a.shape[0] * b.numel() >= _LEAST
        and bool(torch.backends.mkldnn.enabled)
        and in_full_precision()
        and _dense(a)
        and _dense(b)
    )


def in_full_precision() -> bool:
    """Whether torch is to multiply float32 matrices in float32."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # it was asked for in torch's newer way, which this question cannot be mixed with
        return False


def _dense(matrix: Tensor) -> bool:
    """Whether rows or columns stand one behind the other."""
    rows, columns = matrix.shape
    return matrix.stride() in ((columns, 1), (1, rows))


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return linear_by_onednn(a, b.t(), bias)


def linear_by_onednn(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x Wᵀ + b``, as of ``torch.nn.functional.linear``, of types that match; without gradients."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return found


def _own_mm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """As torch itself computes it; ``torch.mm`` would come back here."""
    return torch.addmm(out, a, b, beta=0, out=out)
