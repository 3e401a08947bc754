//! What bounds the rendering of a template, which is a program of whoever made the checkpoint: time, memory, and that nobody waits for
//! it any more. Instructions are counted by minijinja (its "fuel"), but one instruction can do any amount of work.
//!
//! Bounds belong to the thread that renders. Whatever a template calls looks at them, also at every item that it goes through. A bound
//! that was passed stays so: what has no result for an error ends early, and the next look, at the latest that at the end, fails.

use crate::{memory, signatures, values};
use minijinja::functions::Function;
use minijinja::value::{Enumerator, FunctionArgs, FunctionResult, Object, ObjectRepr, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A template may take so long, as in the python engine.
const TIME: Duration = Duration::from_secs(10);
/// Bytes that a rendering may make, those of texts that it makes anew each time they grow included; that it may hold at once, beside what it
/// was given; and of one text or list, also of the prompt that comes out. Prompts of models are far below.
const BYTES: usize = 1 << 30;
const HELD: usize = 256 << 20;
pub const TEXT: usize = 32 << 20;
/// How deep values may be in each other where they are printed or compared.
const DEPTH: usize = 500;
/// The widest indentation, and the longest row of `batch` and `slice`.
const WIDTH: i64 = 1000;
const ROW: i64 = 1 << 20;
/// The clock is looked at after so many small steps, or one with so many bytes.
const STEPS: usize = 64;
const MUCH: usize = 1 << 16;

struct Bounds {
    stop: *const AtomicI32,
    until: Instant,
    bytes: Cell<usize>,
    held: isize, // by the thread, when the rendering began
    steps: Cell<usize>,
    depth: Cell<usize>,
    passed: Cell<Option<&'static str>>, // what was too much
}

impl Bounds {
    fn pass(&self, what: &'static str) -> Result<(), Error> {
        self.passed.set(Some(what));
        Err(over(what))
    }

    /// An error if the rendering would hold too much with so many bytes more.
    fn room_for(&self, bytes: usize) -> Result<(), Error> {
        if memory::held().wrapping_sub(self.held) > HELD as isize - bytes.min(HELD) as isize {
            return self.pass("it fills the memory without end");
        }
        Ok(())
    }

    fn check(&self, steps: usize) -> Result<(), Error> {
        if let Some(what) = self.passed.get() {
            return Err(over(what));
        }
        // SAFETY: begin's caller keeps it valid.
        if unsafe { &*self.stop }.load(Ordering::Relaxed) != 0 {
            return self.pass("it was given up");
        }
        self.room_for(0)?;
        self.steps.set(self.steps.get() + steps);
        if self.steps.get() >= STEPS {
            self.steps.set(0);
            if Instant::now() > self.until {
                return self.pass("it took more than 10 s");
            }
        }
        Ok(())
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Bounds>> = const { RefCell::new(None) };
}

/// Bounds are in force until it is dropped.
pub struct Section;

impl Drop for Section {
    fn drop(&mut self) {
        CURRENT.with(|current| *current.borrow_mut() = None);
    }
}

/// Begins a rendering that ends early when `stop` is no longer 0.
///
/// # Safety
/// `stop` must be valid until the section is dropped.
pub unsafe fn begin(stop: *const AtomicI32) -> Section {
    let bounds = Bounds {
        stop,
        until: Instant::now() + TIME,
        bytes: Cell::new(BYTES),
        held: memory::held(),
        steps: Cell::new(0),
        depth: Cell::new(0),
        passed: Cell::new(None),
    };
    CURRENT.with(|current| *current.borrow_mut() = Some(bounds));
    Section
}

fn over(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// What is constant is computed when a template is compiled, without bounds.
fn current(look: impl FnOnce(&Bounds) -> Result<(), Error>) -> Result<(), Error> {
    CURRENT.with(|current| current.borrow().as_ref().map_or(Ok(()), look))
}

/// An error if the rendering is to end.
pub fn check() -> Result<(), Error> {
    current(|b| b.check(1))
}

/// Check, before a text or a list of so many bytes is made.
pub fn make(bytes: usize) -> Result<(), Error> {
    current(|b| {
        b.check(if bytes > MUCH { STEPS } else { 1 })?;
        if bytes > TEXT || bytes > b.bytes.get() {
            return b.pass("it makes texts without end");
        }
        b.room_for(bytes)?;
        b.bytes.set(b.bytes.get() - bytes);
        Ok(())
    })
}

/// Make, for a list of so many values.
pub fn make_list(items: usize) -> Result<(), Error> {
    make(items.saturating_mul(size_of::<Value>()))
}

/// Make, for a text that gets longer.
pub fn grow(length: usize, more: usize) -> Result<(), Error> {
    make(more)?;
    current(|b| if length.saturating_add(more) > TEXT { b.pass("it makes texts without end") } else { Ok(()) })
}

/// Ends the rendering for something that no result can tell.
pub fn fail(what: &'static str) {
    let _ = current(|b| b.pass(what));
}

/// The prompt that comes out, as it is written.
#[derive(Default)]
pub struct Prompt(pub Vec<u8>);

impl Write for Prompt {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        let whole = self.0.len().saturating_add(more.len());
        let fits = current(|b| if whole > TEXT { b.pass("it makes texts without end") } else { b.check(1) });
        fits.map_err(io::Error::other)?;
        self.0.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Goes one level deeper into a value until the result is dropped; None if the rendering is to end, or the level is too deep.
pub fn deeper() -> Option<Level> {
    let looked = current(|b| {
        b.check(1)?;
        if b.depth.get() >= DEPTH {
            return b.pass("values are nested too deep");
        }
        b.depth.set(b.depth.get() + 1);
        Ok(())
    });
    looked.ok().map(|()| Level)
}

pub struct Level;

impl Drop for Level {
    fn drop(&mut self) {
        let _ = current(|b| {
            b.depth.set(b.depth.get().saturating_sub(1));
            Ok(())
        });
    }
}

/// Check, before something goes through values: a long one is much work.
pub fn before(values: &[Value]) -> Result<(), Error> {
    let much = |v: &Value| match v.kind() {
        ValueKind::String => v.as_str().is_some_and(|text| text.len() > MUCH),
        ValueKind::Seq => v.len().is_some_and(|n| n > STEPS),
        kind => kind == ValueKind::Iterable,
    };
    let steps = if values.iter().any(much) { STEPS } else { 1 };
    current(|b| b.check(steps))
}

/// Check what was made.
pub fn made(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => make(value.as_str().map_or(0, str::len))?,
        ValueKind::Seq => make_list(value.len().unwrap_or(0))?,
        _ => {}
    }
    Ok(value)
}

/// An error for a filter's arguments that would only fill the memory.
fn arguments(filter: &str, args: &[Value]) -> Result<(), Error> {
    let most = match filter {
        "indent" => WIDTH,
        "batch" | "slice" => ROW,
        "list" | "reverse" | "unique" | "sort" | "map" | "select" | "reject" | "first" | "last" | "min" | "max" | "join" => {
            // The characters of a text become a list.
            for text in args.iter().filter_map(Value::as_str).filter(|text| text.len() > MUCH) {
                make_list(text.len())?;
            }
            return Ok(());
        }
        _ => return Ok(()),
    };
    match args.get(1).map(|v| i64::try_from(v.clone())) {
        Some(Ok(n)) if n > most => Err(over(format!("{filter}: more than {most}"))),
        _ => Ok(()),
    }
}

/// Adds a filter that looks at the bounds before and after.
pub fn filter<F, Rv, Args>(env: &mut Environment<'static>, name: &'static str, filter: F)
where
    F: Function<Rv, Args>,
    Rv: FunctionResult,
    Args: for<'a> FunctionArgs<'a>,
{
    let filter = Value::from_function(filter);
    // What these make is deeper than what they get.
    let nests = matches!(name, "batch" | "slice" | "groupby" | "map" | "items" | "dictsort");
    env.add_filter(name, move |state: &State, args: Rest<Value>| {
        before(&args)?;
        arguments(name, &args)?;
        let args = signatures::of_filter_call(name, &args)?;
        let value = made(filter.call(state, &args)?)?;
        if nests {
            return values::shallow(value);
        }
        Ok(value)
    });
}

/// Adds a test that looks at the bounds before.
pub fn test<F, Rv, Args>(env: &mut Environment<'static>, name: &'static str, test: F)
where
    F: Function<Rv, Args>,
    Rv: FunctionResult,
    Args: for<'a> FunctionArgs<'a>,
{
    let test = Value::from_function(test);
    env.add_test(name, move |state: &State, args: Rest<Value>| {
        before(&args)?;
        test.call(state, &signatures::of_test_call(name, &args)?).map(|passes| passes.is_true())
    });
}

/// Adds a function that looks at the bounds before and after.
pub fn function<F, Rv, Args>(env: &mut Environment<'static>, name: &'static str, function: F)
where
    F: Function<Rv, Args>,
    Rv: FunctionResult,
    Args: for<'a> FunctionArgs<'a>,
{
    let function = Value::from_function(function);
    env.add_function(name, move |state: &State, args: Rest<Value>| {
        before(&args)?;
        made(function.call(state, &args)?)
    });
}

/// What a loop goes through, and how much text stands in the loop. It ends when the rendering is to end.
#[derive(Debug)]
pub struct Steps(pub Value, pub usize);

impl Object for Steps {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.0.try_iter() {
            Ok(items) => Enumerator::Iter(Box::new(Items { items, bytes: self.1 })),
            Err(_) => Enumerator::NonEnumerable,
        }
    }
}

struct Items<I> {
    items: I,
    bytes: usize,
}

impl<I: Iterator> Iterator for Items<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let item = self.items.next()?;
        make(self.bytes).ok().map(|()| item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}
