//! What bounds the rendering of a template, which is a program of whoever made the checkpoint: time, memory, and that nobody waits for
//! it any more. Instructions are counted by minijinja (its "fuel"), but one instruction can do any amount of work.
//!
//! Bounds belong to the thread that renders. Everything of ours that a template calls looks at them.

use minijinja::{Error, ErrorKind};
use std::cell::Cell;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// A template may take so long, as in the python engine.
const TIME: Duration = Duration::from_secs(10);
/// Bytes that a rendering may make, those of texts that it makes anew each time they grow included; and of one text. A prompt is far below.
const BYTES: usize = 1 << 30;
const TEXT: usize = 64 << 20;
/// The widest indentation, and the longest row of `batch` and `slice`.
const WIDTH: i64 = 1000;
const ROW: i64 = 1 << 20;

#[derive(Clone, Copy)]
struct Bounds {
    stop: *const AtomicI32,
    until: Instant,
    bytes: usize,
}

thread_local! {
    static CURRENT: Cell<Option<Bounds>> = const { Cell::new(None) };
}

/// Bounds are in force until it is dropped.
pub struct Section;

impl Drop for Section {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

/// Begins a rendering that ends early when `stop` is no longer 0.
///
/// # Safety
/// `stop` must be valid until the section is dropped.
pub unsafe fn begin(stop: *const AtomicI32) -> Section {
    CURRENT.set(Some(Bounds { stop, until: Instant::now() + TIME, bytes: BYTES }));
    Section
}

fn over(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// An error if the rendering is to end.
pub fn check() -> Result<(), Error> {
    match CURRENT.get() {
        // SAFETY: begin's caller keeps it valid.
        Some(b) if unsafe { &*b.stop }.load(Ordering::Relaxed) != 0 => Err(over("it was given up")),
        Some(b) if Instant::now() > b.until => Err(over(format!("it took more than {} s", TIME.as_secs()))),
        _ => Ok(()),
    }
}

/// Check, before a text or a list of so many bytes is made.
pub fn make(bytes: usize) -> Result<(), Error> {
    check()?;
    if let Some(mut b) = CURRENT.get() {
        if bytes > TEXT || bytes > b.bytes {
            return Err(over("it makes texts without end"));
        }
        b.bytes -= bytes;
        CURRENT.set(Some(b));
    }
    Ok(())
}

/// An error for a filter's argument that would only fill the memory.
pub fn argument(filter: &str, value: i64) -> Result<(), Error> {
    let most = match filter {
        "indent" => WIDTH,
        "batch" | "slice" => ROW,
        _ => return Ok(()),
    };
    if value > most {
        return Err(over(format!("{filter}: more than {most}")));
    }
    Ok(())
}
