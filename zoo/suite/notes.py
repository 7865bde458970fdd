"""How to read the tables of a suite, in the words of its report."""

from __future__ import annotations

TRAINING_NOTES = """\
Images are random and lie on the device, so no data is read; weights are random.
Images/s: all images of a step, labeled and unlabeled, over the median of a step.
x plain: images/s over those of `plain fp32` in the same phase, the method as it would be written without a \
thought of speed: eager, fp32 without TF32, NCHW, optimizers that are not fused.
Loss terms: what lies outside of networks, backward pass and optimizer; contrastive: with its gradient.
Host syncs: how often the method makes the host wait for the GPU in a step; not counted on a CPU.
TFLOP/s: operations that PyTorch's counter sees, forward and backward, over the median of a step.
Of bf16 peak: of the peak that was measured here, whatever the variant computes in.
""".splitlines()
INFERENCE_NOTES = """\
Weights are random: latency does not depend on them. BatchNorm has the statistics of drawn images and every \
class is predicted, so that the agreement says something.
Agreement: the share of pixels with the class that eager fp32 gives them with the same weights.
p50, p90, x eager: uint8 images in host memory to uint8 masks in host memory, by the host's clock. Backends \
took turns in 10 rounds after a warm-up.
GPU compute: between CUDA events around the network.
eager is PyTorch in fp32, eager-amp in mixed precision and channels last, compile and \
compile-amp are both of these compiled; ort is ONNX Runtime, on a GPU with IO binding and CUDA graphs.
Roofline: the larger of operations / peak and bytes / bandwidth, both as measured here.
Bytes: of one kernel for each convolution or product, which reads its input and weights and writes its \
output once, in the precision of the row; all else is taken to be part of those kernels. Weights count once \
a batch.
x roofline: GPU compute over the roofline, on a CPU end to end. On a GPU fp32 is held against the TF32 peak, \
as PyTorch's convolutions, ONNX Runtime and TensorRT use it unless told otherwise.
""".splitlines()
AIMS_NOTE = (
    "Of a GPU at the size of the papers. Each line shows the worst of what was measured; of a method its "
    "fastest variant, in its last phase."
)
QUICK_NOTE = (
    "**Quick: smallest networks and images, few runs, to see that the suite works. No figure here says how "
    "fast the project is.**"
)
