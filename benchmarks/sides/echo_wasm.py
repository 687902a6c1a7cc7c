"""The same echo as a WebAssembly module: what it is called with is its answer, where it lies.

Usage: python -m benchmarks.sides.echo_wasm msgpack|json [OPTION ...]
"""

import sys
import tempfile
from pathlib import Path

import wasmtime

from prism.hosts.wasm.__main__ import main
from prism.sdk import session
from prism.wire.codecs import CODEC_NAMES

OFFERS = '{"version": "1.0.0", "operations": [{"name": "echo", "idempotent": true}]}'
QUOTED = OFFERS.replace('"', '\\"')
MODULE = rf"""(module
  (memory (export "memory") 2)
  (data (i32.const 64) "\00{QUOTED}")
  (func $say (param $at i32) (param $size i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
            (i64.extend_i32_u (local.get $size))))
  (func (export "prism_abi") (result i32) (i32.const 1))
  (func (export "prism_alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "prism_initialize") (param i32 i32) (result i64)
    (call $say (i32.const 64) (i32.const {len(OFFERS) + 1})))
  (func (export "prism_execute") (param i32 i32 i32 i32) (result i64)
    (i32.store8 (i32.sub (local.get 2) (i32.const 1)) (i32.const 0))
    (call $say (i32.sub (local.get 2) (i32.const 1))
      (i32.add (local.get 3) (i32.const 1)))))"""

if __name__ == "__main__":
    codec, *options = sys.argv[1:]
    vars(session)["CODEC_NAMES"] = {codec: CODEC_NAMES[codec]}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "echo.wasm"
        file.write_bytes(wasmtime.wat2wasm(MODULE))
        main([str(file), *options])
