//! What crosses the boundary: owned byte buffers, and calls that cannot unwind into Go.

use std::panic::{catch_unwind, AssertUnwindSafe};

/// A buffer owned by Rust until `gomlx_bytes_free`.
#[repr(C)]
pub struct Bytes {
    pub data: *mut u8,
    pub len: usize,
}

/// A vector of token ids owned by Rust until `gomlx_ids_free`.
#[repr(C)]
pub struct Ids {
    pub data: *mut u32,
    pub len: usize,
}

impl Bytes {
    pub fn from_vec(v: Vec<u8>) -> Self {
        let boxed = v.into_boxed_slice();
        let len = boxed.len();
        Bytes { data: Box::into_raw(boxed) as *mut u8, len }
    }
}

impl Ids {
    pub fn from_vec(v: Vec<u32>) -> Self {
        let boxed = v.into_boxed_slice();
        let len = boxed.len();
        Ids { data: Box::into_raw(boxed) as *mut u32, len }
    }
}

/// Borrows the caller's bytes; a nil pointer with length 0 is the empty slice.
///
/// # Safety
/// `data` must point to `len` readable bytes that outlive the borrow.
pub unsafe fn borrow<'a>(data: *const u8, len: usize) -> &'a [u8] {
    if len == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, len)
    }
}

/// Borrows the caller's bytes as UTF-8 text, or says where they stop being it.
///
/// # Safety
/// As for [`borrow`].
pub unsafe fn borrow_str<'a>(data: *const u8, len: usize) -> Result<&'a str, String> {
    std::str::from_utf8(borrow(data, len))
        .map_err(|e| format!("invalid UTF-8 at byte {}", e.valid_up_to()))
}

/// Runs `f`, stores its value in `out` or its error in `err`, and turns a panic into an error.
///
/// # Safety
/// `out` and `err` must be valid for writes.
pub unsafe fn guard<T>(out: *mut T, err: *mut Bytes, f: impl FnOnce() -> Result<T, String>) -> i32 {
    let message = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(v)) => {
            out.write(v);
            return 0;
        }
        Ok(Err(m)) => m,
        Err(p) => {
            let text = p
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| p.downcast_ref::<&str>().map(|s| s.to_string()))
                .unwrap_or_else(|| "unknown panic".into());
            format!("panic in the tokenizer library: {text}")
        }
    };
    err.write(Bytes::from_vec(message.into_bytes()));
    1
}

/// # Safety
/// `b` must come from this library and not have been freed.
#[no_mangle]
pub unsafe extern "C" fn gomlx_bytes_free(b: Bytes) {
    if !b.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(b.data, b.len)));
    }
}

/// # Safety
/// `v` must come from this library and not have been freed.
#[no_mangle]
pub unsafe extern "C" fn gomlx_ids_free(v: Ids) {
    if !v.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(v.data, v.len)));
    }
}
