//! Python's ranges, and generators, which can be gone through once.

use crate::{bounds, values};
use minijinja::value::{Enumerator, Object, ObjectRepr, Rest};
use minijinja::{Environment, Error, ErrorKind, Value};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Jinja's sandbox has the same bound.
const LONGEST: i64 = 100_000;

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

pub fn add(env: &mut Environment<'static>) {
    env.add_function("range", |args: Rest<Value>| {
        let numbers: Option<Vec<i64>> = args.iter().map(values::whole).collect();
        let (start, stop, step) = match numbers.as_deref() {
            Some(&[stop]) => (0, stop, 1),
            Some(&[start, stop]) => (start, stop, 1),
            Some(&[start, stop, step]) => (start, stop, step),
            _ => return Err(bad("range takes one to three whole numbers")),
        };
        if step == 0 {
            return Err(bad("range() arg 3 must not be zero"));
        }
        let range = Range { start, stop, step };
        if range.length() > LONGEST {
            return Err(bad(format!("a range of more than {LONGEST} numbers")));
        }
        bounds::make_list(range.length() as usize)?;
        Ok(Value::from_object(range))
    });
}

#[derive(Debug)]
pub struct Range {
    pub start: i64,
    pub stop: i64,
    pub step: i64,
}

impl Range {
    pub fn length(&self) -> i64 {
        let (from, to, step) = if self.step > 0 { (self.start, self.stop, self.step) } else { (self.stop, self.start, self.step.saturating_neg()) };
        if from >= to {
            return 0;
        }
        ((i128::from(to) - i128::from(from) - 1) / i128::from(step) + 1).min(i64::MAX.into()) as i64
    }

    fn at(&self, i: i64) -> i64 {
        self.start.wrapping_add(i.wrapping_mul(self.step))
    }

    /// The part that `slice.indices` names: from an index, in steps, so many of them.
    pub fn part(&self, from: i64, to: i64, step: i64) -> Range {
        Range { start: self.at(from), stop: self.at(to), step: self.step.saturating_mul(step) }
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let i = i64::try_from(key.as_usize()?).ok().filter(|i| *i < self.length())?;
        Some(Value::from(self.at(i)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.length() as usize)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "range({}, {}", self.start, self.stop)?;
        if self.step != 1 {
            write!(f, ", {}", self.step)?;
        }
        f.write_str(")")
    }
}

/// What many filters make: values that can be gone through once, not counted and not printed.
#[derive(Debug)]
pub struct Generator(Mutex<VecDeque<Value>>);

pub fn generator(items: impl IntoIterator<Item = Value>) -> Value {
    Value::from_object(Generator(Mutex::new(items.into_iter().collect())))
}

impl Generator {
    /// What has not been gone through, which it stays.
    pub fn left(&self) -> Vec<Value> {
        self.0.lock().map_or_else(|_| Vec::new(), |items| items.iter().cloned().collect())
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Iter(Box::new(Left(self.clone())))
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    // Without a length, though how many are left is known.
    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }
}

struct Left(Arc<Generator>);

impl Iterator for Left {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        self.0 .0.lock().ok()?.pop_front()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.0 .0.lock().map_or(0, |items| items.len());
        (left, Some(left))
    }
}
