#!/bin/sh
# The whole way of a model, from training to pictures: `make demo`. Needs no network, no GPU and no data.
set -eu
cd "$(dirname "$0")/.."
rm -rf demo
mkdir demo
times=demo/times.txt

step() {
    printf '\n$ %s\n' "$*"
    begin=$(date +%s)
    "$@"
    printf '%6d s  %s\n' "$(($(date +%s) - begin))" "$*" | tee -a "$times"
}

# the TensorRT path where its builder can be installed; it needs no GPU
trt=--trt
"$(dirname "$(command -v zoo)")/python" -c 'import tensorrt_rtx' 2>/dev/null || trt=

step zoo train eln --out demo/eln
step zoo export demo/eln --onnx $trt
step zoo bench demo/eln --quick
step zoo predict demo/eln shapes --overlay --out demo/predictions

files() { # files TITLE FIND-EXPRESSION...: nothing if there is none
    title=$1
    shift
    found=$(find demo -type f \( "$@" \) | sort)
    [ -z "$found" ] || printf '\n%s\n%s\n' "$title" "$(echo "$found" | sed 's/^/  /')"
}

printf '\nTook\n'
cat "$times"
files 'Pictures' -name '*.png' -o -name '*.jpg' -o -name '*.svg'
files 'Tables and records' -name '*.json' -o -name '*.csv' -o -name '*.md' -o -name '*.html'
files 'Models' -name '*.safetensors' -o -name '*.onnx' -o -name '*.engine'
