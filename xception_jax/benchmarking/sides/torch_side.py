"""timm's networks and PyTorch's operators, in channels_last: SGD with momentum, bfloat16 through autocast."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from protocol import LeftOut, Work, serve
from torch.nn import functional as F

Task = dict[str, Any]
TIMM_NAMES = {"xception": "legacy_xception"}
NUM_CLASSES = 1000
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


def import_timm() -> Any:
    """Imports timm; if torchvision was built for another PyTorch, stubs the two operators that no network here uses."""
    try:
        import timm
    except RuntimeError as e:
        if "torchvision::" not in str(e):
            raise
        for operator in ("nms", "qnms"):
            signature = f"torchvision::{operator}"
            torch.library.define(signature, "(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        import timm
    return timm


def network(task: Task) -> Any:
    """timm's network for the task."""
    if task["options"]:
        raise LeftOut(f"timm's networks do not have the options {', '.join(task['options'])}")
    name = TIMM_NAMES.get(task["model"], task["model"])
    model = import_timm().create_model(name, num_classes=NUM_CLASSES)
    return model.to(DEVICE, memory_format=torch.channels_last)


def compiled(function: Callable, task: Task) -> Callable:
    """The function, compiled with torch.compile if the task asks for it."""
    return torch.compile(function) if task["compiled"] else function


def batch(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalized images, as the input pipeline would deliver them, and labels."""
    size = task["image_size"]
    images = torch.rand(task["batch"], 3, size, size, device=DEVICE) * 2 - 1
    return images.to(memory_format=torch.channels_last), torch.randint(NUM_CLASSES, (task["batch"],), device=DEVICE)


def autocast(task: Task) -> Any:
    """bfloat16 if the task asks for it."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=task["dtype"] == "bfloat16")


def train(task: Task) -> Work:
    """Training steps on a batch that is already on the device."""
    model = network(task).train()
    forward = compiled(model, task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.045, momentum=0.9, weight_decay=1e-5)
    images, labels = batch(task)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(task):
            loss = F.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()

    return Work(run, wait, facts(), device_memory())


def infer(task: Task) -> Work:
    """Inference on a batch that is already on the device."""
    forward = compiled(network(task).eval(), task)
    images, _ = batch(task)

    def run() -> None:
        with torch.inference_mode(), autocast(task):
            forward(images)

    return Work(run, wait, facts(), device_memory())


def operator(task: Task) -> Work:
    """One operator, in one direction; fields as in `operators.Operator`."""
    o, dtype = task["operator"], getattr(torch, task["dtype"])
    b, h, w, c = o["shape"]
    x = torch.randn(b, c, h, w, device=DEVICE, dtype=dtype).to(memory_format=torch.channels_last)
    # Asymmetric padding is a separate copy in PyTorch; only the operator is measured, so the larger side is used.
    padding = [max(pair) for pair in o["padding"]]
    if o["kind"] == "max pool":
        return Work(differentiated(lambda x: F.max_pool2d(x, o["window"], o["strides"], padding), [x], task), wait)
    if o["kind"] == "batch norm":
        scale, bias, mean, variance = (torch.rand(c, device=DEVICE) for _ in range(4))

        def normalize(x: Any, scale: Any, bias: Any) -> Any:
            return F.batch_norm(x, mean, variance, scale, bias, training=True, momentum=0.01, eps=1e-3)

        return Work(differentiated(normalize, [x, scale, bias], task), wait)
    if o["kind"] == "separable":
        return Work(differentiated(*separable(x, o), task), wait)
    kernel = torch.randn(o["channels"], c // o["groups"], *o["window"], device=DEVICE, dtype=dtype)
    kernel = kernel.to(memory_format=torch.channels_last)
    convolve = functools.partial(
        torch.ops.aten.convolution,
        bias=None,
        stride=o["strides"],
        padding=padding,
        dilation=o["dilation"],
        transposed=False,
        output_padding=[0, 0],
        groups=o["groups"],
    )
    if task["direction"] == "forward":
        return Work(lambda: convolve(x, kernel), wait)
    cotangent = torch.randn_like(convolve(x, kernel))
    mask = [task["direction"] == "input gradient", task["direction"] == "kernel gradient", False]
    static = (None, o["strides"], padding, o["dilation"], False, [0, 0], o["groups"], mask)
    return Work(lambda: torch.ops.aten.convolution_backward(cotangent, x, kernel, *static), wait)


def separable(x: torch.Tensor, o: dict[str, Any]) -> tuple[Callable, list[torch.Tensor]]:
    """Batch normalization, ReLU, depthwise and pointwise convolution, and their parameters."""
    channels = x.shape[1]
    scale, bias, mean, variance = (torch.rand(channels, device=DEVICE) for _ in range(4))
    kernels = [
        torch.randn(*shape, device=DEVICE, dtype=x.dtype).to(memory_format=torch.channels_last)
        for shape in ((channels, 1, *o["window"]), (o["channels"], channels, 1, 1))
    ]

    def convolve(x: Any, scale: Any, bias: Any, depthwise: Any, pointwise: Any) -> Any:
        x = F.relu(F.batch_norm(x, mean, variance, scale, bias, training=True, momentum=0.01, eps=1e-3))
        padding = [pair[0] for pair in o["padding"]]
        return F.conv2d(F.conv2d(x, depthwise, None, 1, padding, o["dilation"], channels), pointwise)

    return convolve, [x, scale, bias, *kernels]


def differentiated(function: Callable, inputs: list[torch.Tensor], task: Task) -> Callable[[], Any]:
    """The function, with its gradient if the task asks for it."""
    if task["direction"] == "forward":

        def forward() -> None:
            with torch.no_grad():
                function(*inputs)

        return forward
    inputs = [x.requires_grad_() for x in inputs]
    cotangent = torch.randn_like(function(*inputs))
    return lambda: torch.autograd.grad(function(*inputs), inputs, cotangent)


def wait() -> None:
    """Waits until the device has finished all work."""
    if CUDA:
        torch.cuda.synchronize()


def device_memory() -> Callable[[], dict[str, Any]] | None:
    """A function that returns the device's peak memory; None if the device has no memory of its own."""
    if not CUDA:
        return None
    torch.cuda.reset_peak_memory_stats()
    return lambda: {"bytes": torch.cuda.max_memory_allocated(), "kind": "device"}


def facts() -> dict[str, Any]:
    """Versions."""
    return {"versions": {"torch": torch.__version__, "timm": import_timm().__version__}}


TASKS: dict[str, Callable[[Task], Work]] = {"train": train, "infer": infer, "operators": operator}

if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True
    serve(lambda task: TASKS[task["what"]](task))
