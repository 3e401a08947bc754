//! Jinja's functions, and those that transformers adds.

use crate::names::{DATE, DATE_SIGNED, NO_DATE};
use crate::{bounds, lists, pytext, sequences, values};
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

pub fn add(env: &mut Environment<'static>) {
    bounds::function(env, "raise_exception", |message: Value| -> Result<String, Error> { Err(bad(pytext::str(&message))) });
    bounds::function(env, "strftime_now", strftime_now);
    bounds::function(env, "joiner", |args: Rest<Value>| -> Result<Value, Error> {
        let (placed, kwargs): (&[Value], Kwargs) = minijinja::value::from_args(&args.0)?;
        let named = if kwargs.has("sep") { Some(kwargs.get::<Value>("sep")?) } else { None };
        kwargs.assert_all_used()?;
        match (placed, named) {
            ([], sep) => Ok(minijinja_contrib::globals::joiner(sep)),
            ([sep], None) => Ok(minijinja_contrib::globals::joiner(Some(sep.clone()))),
            _ => Err(bad("joiner takes one argument")),
        }
    });
    bounds::function(env, "cycler", |items: Rest<Value>| match items.0.is_empty() {
        true => Err(bad("at least one item has to be provided")),
        false => Ok(Value::from_object(Cycler(items.0, AtomicUsize::new(0)))),
    });
    bounds::function(env, "dict", lists::dict);
    env.add_function("namespace", |args: Rest<Value>| -> Result<Value, Error> {
        let attributes = values::shallow(lists::dict(args)?)?;
        for name in attributes.try_iter()? {
            match name.as_str() {
                Some(name) if name.starts_with('_') => return Err(bad(format!("a namespace keeps nothing under the name {name}"))),
                Some(_) => {}
                None => return Err(bad("a namespace keeps values under names")),
            }
        }
        minijinja::functions::namespace(Some(attributes))
    });
    sequences::add(env);
}

/// One value after the other, and again from the first.
#[derive(Debug)]
struct Cycler(Vec<Value>, AtomicUsize);

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "current" => self.0.get(self.1.load(Ordering::Relaxed)).cloned(),
            "pos" => Some(Value::from(self.1.load(Ordering::Relaxed))),
            "items" => Some(values::tuple(self.0.clone())),
            _ => None,
        }
    }

    fn call_method(self: &Arc<Self>, _: &State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let () = minijinja::value::from_args(args)?;
        let at = self.1.load(Ordering::Relaxed);
        match method {
            "next" => self.1.store((at + 1) % self.0.len(), Ordering::Relaxed),
            "reset" => {
                self.1.store(0, Ordering::Relaxed);
                return Ok(Value::from(()));
            }
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        }
        Ok(self.0[at].clone())
    }
}

fn strftime_now(format: String) -> Result<String, Error> {
    use std::fmt::Write;
    bounds::make(format.len().saturating_mul(64))?; // each letter of it may become a date
    let now = chrono::Local::now();
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut letters = rest.clone();
        let flag = letters.clone().next().filter(|c| "-_0".contains(*c));
        if flag.is_some() {
            letters.next();
        }
        match letters.next() {
            Some(letter) if DATE.contains(letter) && (flag.is_none() || DATE_SIGNED.contains(letter)) => {
                let spec = format!("%{}{letter}", flag.map(String::from).unwrap_or_default());
                write!(out, "{}", now.format(&spec)).map_err(|_| bad(format!("bad date format {format:?}")))?;
                rest = letters;
            }
            Some('f') if flag.is_none() => {
                write!(out, "{:06}", now.timestamp_subsec_micros()).unwrap_or_default();
                rest = letters;
            }
            Some('z' | 'Z') if flag.is_none() => rest = letters, // the time has no zone
            Some(letter) if NO_DATE.contains(letter) => out.push('%'),
            None if flag.is_none() => out.push('%'),
            _ => return Err(bad(format!("the date format {format:?} is not known here"))),
        }
    }
    Ok(out)
}
