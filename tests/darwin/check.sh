#!/bin/sh
# Compiles and links the program for macOS on Apple Silicon, on Linux: mlx-c, the tokenizer library and the Go code, against the
# libmlx of the mlx-metal wheel. That shows that the Mac build compiles and links; what Metal computes it does not show.
# `make check-darwin` runs it; everything lands in build/darwin.
set -eu
cd "$(dirname "$0")/../.."
out=$PWD/build/darwin
python=$PWD/.venv/bin/python
target=aarch64-macos.14.0
mkdir -p "$out/bin" "$out/lib" "$out/stubs" "$out/system"

version=$(sed -n 's/^mlx==\([^;]*\);.*darwin.*/\1/p' requirements.txt)
if [ "$(cat "$out/version" 2>/dev/null)" != "$version" ]; then
    rm -rf "$out/mlx" "$out"/mlx_metal-*.whl "$out/version"
    echo "==> mlx-metal $version and zig"
    sh tools/retry.sh "$python" -m pip install --quiet --disable-pip-version-check --upgrade --target "$out/zig" ziglang==0.15.2
    sh tools/retry.sh "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
        --platform macosx_14_0_arm64 --dest "$out" "mlx-metal==$version"
    "$python" -m zipfile -e "$out"/mlx_metal-*.whl "$out"
    echo "$version" >"$out/version" # last, when all is there
fi

# Compilers as programs of one name, which is what cmake, cargo and go expect. Go asks its linker for frameworks that zig has
# no part of; stubs stand for them.
for tool in cc c++ ar ranlib; do
    cat >"$out/bin/$tool" <<END
#!/bin/sh
export PYTHONPATH="$out/zig"
case $tool in
cc | c++) exec "$python" -m ziglang $tool -target $target -F"$out/stubs" -L"$out/stubs" -isystem "$out/stubs/include" -Wno-nullability-completeness "\$@" ;;
*) exec "$python" -m ziglang $tool "\$@" ;;
esac
END
    chmod +x "$out/bin/$tool"
done
# The go command asks the compiler which flags it knows by letting it compile its standard input; zig then leaves a file "-.o".
trap 'rm -f ./-.o' EXIT
stub() { # FILE INSTALL_NAME SYMBOLS
    mkdir -p "$(dirname "$1")"
    cat >"$1" <<END
--- !tapi-tbd
tbd-version: 4
targets: [ arm64-macos ]
install-name: '$2'
exports:
  - targets: [ arm64-macos ]
    symbols: [ $3 ]
...
END
}
cf=/System/Library/Frameworks/CoreFoundation.framework/Versions/A/CoreFoundation
sec=/System/Library/Frameworks/Security.framework/Versions/A/Security
symbols_of() { # the framework's symbols that Go's standard library names
    grep -rhoE "\b$1[A-Za-z]+" "$(go env GOROOT)/src/crypto/x509/internal/macos" "$(go env GOROOT)/src/runtime/cgo" 2>/dev/null |
        sort -u | sed "s/.*/_&/" | paste -sd, -
}
rust=_CFStringGetBytes,_CFStringGetCStringPtr,_CFStringGetLength,_CFTimeZoneCopySystem,_CFTimeZoneGetName,_CFTimeZoneResetSystem
stub "$out/stubs/CoreFoundation.framework/CoreFoundation.tbd" "$cf" "$rust,$(symbols_of '(CF|kCF)')"
stub "$out/stubs/Security.framework/Security.tbd" "$sec" "$(symbols_of '(Sec|kSec)')"
# What libmlx links mlx-c does not need itself.
for f in $(grep -o '/[A-Za-z]*\.framework' "$out/mlx/share/cmake/MLX/MLXTargets.cmake" | tr -d / | sed 's/\.framework//' | sort -u); do
    stub "$out/stubs/$f.framework/$f.tbd" "/System/Library/Frameworks/$f.framework/Versions/A/$f" ""
done
stub "$out/stubs/libresolv.tbd" /usr/lib/libresolv.9.dylib "_res_9_ninit, _res_9_nsearch, _res_9_nclose, _res_9_init, _res_9_search"

# A header of the macOS SDK that zig's lacks; a dependency reads the size of the process with it.
mkdir -p "$out/stubs/include/mach"
cat >"$out/stubs/include/mach/mach_vm.h" <<END
#include <mach/mach_types.h>
kern_return_t mach_vm_region(vm_map_t, mach_vm_address_t *, mach_vm_size_t *, vm_region_flavor_t, vm_region_info_t,
                             mach_msg_type_number_t *, mach_port_t *);
END

# CMake asks the system it runs on which macOS it is.
printf '#!/bin/sh\necho 14.0\n' >"$out/system/sw_vers"
chmod +x "$out/system/sw_vers"

echo "==> mlx-c and the CPU kernels for $target"
source=$(sed -n 's/^MLX_C_SOURCE_DIR:PATH=//p' build/mlx-c/CMakeCache.txt)
PATH="$out/system:$PATH" "${CMAKE:-cmake}" -S cpp -B "$out/mlx-c" -DCMAKE_BUILD_TYPE=Release -DMLX_C_SOURCE_DIR="$source" -DCMAKE_PREFIX_PATH="$out/mlx" \
    -DCMAKE_SYSTEM_NAME=Darwin -DCMAKE_SYSTEM_PROCESSOR=arm64 -DCMAKE_C_COMPILER="$out/bin/cc" -DCMAKE_CXX_COMPILER="$out/bin/c++" \
    -DCMAKE_AR="$out/bin/ar" -DCMAKE_RANLIB="$out/bin/ranlib" -DCMAKE_C_COMPILER_WORKS=1 -DCMAKE_CXX_COMPILER_WORKS=1 \
    -DCMAKE_INSTALL_NAME_TOOL=/bin/true -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$out/lib" >"$out/mlx-c.log"
# With no number as many compilers of make's are started as there are files.
"${CMAKE:-cmake}" --build "$out/mlx-c" --parallel "${JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}" >>"$out/mlx-c.log" || { tail -n 30 "$out/mlx-c.log" >&2; exit 1; }

echo "==> tokenizer library for $target"
sh tools/retry.sh rustup target add aarch64-apple-darwin >/dev/null 2>&1 || { echo "missing: rustup target add aarch64-apple-darwin" >&2; exit 1; }
# A crate below makes a dynamic library too, which nobody uses; a static one needs no linker.
CARGO_TARGET_AARCH64_APPLE_DARWIN_LINKER=true CC_aarch64_apple_darwin="$out/bin/cc" AR_aarch64_apple_darwin="$out/bin/ar" cargo build --quiet --release --locked \
    --manifest-path internal/tokenizer/rust/Cargo.toml --target aarch64-apple-darwin --target-dir build/rust
cp build/rust/aarch64-apple-darwin/release/libgomlx_tokenizer.a "$out/lib/"

echo "==> the program for $target"
# The tag takes the libraries by pkg-config, which here is a program that names those just made.
cat >"$out/bin/pkg-config" <<END
#!/bin/sh
case "\$*" in
*--cflags*) echo "-I$PWD/build/include" ;;
*--libs*) echo "-L$out/lib -lgomlx_kernels -lmlxc -lgomlx_tokenizer -framework CoreFoundation" ;;
esac
END
chmod +x "$out/bin/pkg-config"
GOOS=darwin GOARCH=arm64 CGO_ENABLED=1 CC="$out/bin/cc" CXX="$out/bin/c++" PKG_CONFIG="$out/bin/pkg-config" \
    go build -tags pkgconfig -ldflags '-s -w' -o "$out/go-mlx" ./cmd/go-mlx
GOOS=darwin GOARCH=arm64 CGO_ENABLED=1 CC="$out/bin/cc" CXX="$out/bin/c++" PKG_CONFIG="$out/bin/pkg-config" \
    go vet -tags pkgconfig . ./bridge ./native/... ./internal/... ./cmd/...
head -c 4 "$out/go-mlx" | od -An -tx1 | grep -q 'cf fa ed fe' || { echo "not a Mach-O program" >&2; exit 1; }
echo "$out/go-mlx is a program for macOS on Apple Silicon"
