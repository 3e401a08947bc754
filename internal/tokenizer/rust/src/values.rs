//! Values of Python's that minijinja does not have: tuples, the views of a dict, and methods that are not called.

use crate::sequences::{Generator, Range};
use crate::{bounds, calls, names, pymethods, pytext};
use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::fmt;
use std::sync::Arc;

/// A tuple: a list that prints in round brackets and is equal to no list.
#[derive(Debug)]
pub struct Tuple(pub Vec<Value>);

pub fn tuple(items: Vec<Value>) -> Value {
    Value::from_object(Tuple(items))
}

pub fn is_tuple(v: &Value) -> bool {
    v.downcast_object_ref::<Tuple>().is_some() || v.downcast_object_ref::<Group>().is_some()
}

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

/// What `groupby` gives: a pair with names.
#[derive(Debug)]
pub struct Group(pub Value, pub Value);

impl Object for Group {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_str(), key.as_usize()) {
            (Some("grouper"), _) | (_, Some(0)) => Some(self.0.clone()),
            (Some("list"), _) | (_, Some(1)) => Some(self.1.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}

/// `dict.items()`, `.keys()` or `.values()`: it can be gone through and counted, and has no indexes.
#[derive(Debug)]
pub struct View {
    pub name: &'static str,
    pub items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name, pytext::list(self.items.iter()))
    }
}

/// A method that is not called, such as `message.items`: defined, true and callable.
#[derive(Debug)]
pub struct Method {
    pub of: Value,
    pub name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        pymethods::call(state, &self.of, &self.name, args)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<built-in method {}>", self.name)
    }
}

/// How deep the values of a namespace, or of variables in a very long template, may be in each other.
const KEPT_DEPTH: usize = 200;

/// Check, before a namespace keeps a value. A loop could otherwise nest values until going through them, even to free them, overflows the
/// stack, which ends the process; or a namespace could be in itself.
pub fn keep(v: Value) -> Result<Value, Error> {
    look(&v, 0, true)?;
    Ok(v)
}

/// An error for values that are too deep in each other.
pub fn shallow(v: Value) -> Result<Value, Error> {
    look(&v, 0, false)?;
    Ok(v)
}

fn look(v: &Value, depth: usize, to_keep: bool) -> Result<(), Error> {
    let Some(object) = v.as_object() else { return Ok(()) };
    let bad = |message: String| Err(Error::new(ErrorKind::InvalidOperation, message));
    if depth >= KEPT_DEPTH {
        return bad(format!("values are nested more than {KEPT_DEPTH} deep"));
    }
    bounds::check()?;
    if let Some(Group(key, items)) = object.downcast_ref::<Group>() {
        return look(key, depth + 1, to_keep).and_then(|()| look(items, depth + 1, to_keep));
    }
    if let Some(generator) = object.downcast_ref::<Generator>() {
        return generator.left().iter().try_for_each(|item| look(item, depth + 1, to_keep));
    }
    match v.kind() {
        ValueKind::Seq | ValueKind::Iterable => {}
        ValueKind::Map if is_dict(v) => {
            for key in v.try_iter()? {
                look(&v.get_item(&key)?, depth + 1, to_keep)?;
                look(&key, depth + 1, to_keep)?;
            }
            return Ok(());
        }
        _ if v.downcast_object_ref::<Method>().is_some() => {
            return v.downcast_object_ref::<Method>().map_or(Ok(()), |method| look(&method.of, depth + 1, to_keep));
        }
        // Macros have values in them that cannot be looked at.
        _ if !to_keep => return Ok(()),
        _ => return bad("a namespace keeps texts, numbers, lists and dicts, no namespaces and nothing that is called".into()),
    }
    for item in v.try_iter()? {
        look(&item, depth + 1, to_keep)?;
    }
    Ok(())
}

/// How many values a key may have in it. minijinja goes through all of them in one step.
const KEY_PARTS: usize = 10_000;
/// The same for values that `loop.changed` compares.
const SEEN_PARTS: usize = 100_000;

/// What may be a key: as in Python no list and no dict; and no tuple that contains others so many times that it never ends.
pub fn key(v: Value) -> Result<Value, Error> {
    let mut left = KEY_PARTS;
    hashable(&v, &mut left)?;
    Ok(v)
}

/// What may be an index: as in Jinja an item that no key can name is not defined, and no error.
fn index(v: Value) -> Result<Value, Error> {
    match hashable(&v, &mut KEY_PARTS.clone()) {
        Err(e) if e.detail().is_some_and(|text| text.starts_with(UNHASHABLE)) => Ok(Value::UNDEFINED),
        found => found.map(|()| v),
    }
}

const UNHASHABLE: &str = "unhashable type";

fn hashable(v: &Value, left: &mut usize) -> Result<(), Error> {
    let bad = |message: String| Err(Error::new(ErrorKind::InvalidOperation, message));
    match v.kind() {
        ValueKind::Seq if is_tuple(v) => {
            for item in v.try_iter()? {
                if *left == 0 {
                    return bad(format!("a key of more than {KEY_PARTS} values"));
                }
                *left -= 1;
                bounds::make(item.as_str().map_or(0, str::len))?; // a tuple may have the same long text many times
                hashable(&item, left)?;
            }
            Ok(())
        }
        ValueKind::Seq | ValueKind::Iterable => bad(format!("{UNHASHABLE}: '{}'", pytext::type_name(v))),
        ValueKind::Map if is_dict(v) => bad(format!("{UNHASHABLE}: 'dict'")),
        _ => Ok(()),
    }
}

/// The arguments of `loop.changed`, which compares them in one step.
pub fn seen(values: Rest<Value>) -> Result<Value, Error> {
    let all = tuple(values.0);
    let mut left = SEEN_PARTS;
    count(&all, &mut left)?;
    Ok(all)
}

fn count(v: &Value, left: &mut usize) -> Result<(), Error> {
    if *left == 0 {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("changed: a value with more than {SEEN_PARTS} in it")));
    }
    *left -= 1;
    if let Some(generator) = v.downcast_object_ref::<Generator>() {
        return generator.left().iter().try_for_each(|item| count(item, left));
    }
    match v.kind() {
        ValueKind::Seq | ValueKind::Iterable => v.try_iter()?.try_for_each(|item| count(&item, left)),
        ValueKind::Map if is_dict(v) => v.try_iter()?.try_for_each(|key| count(&v.get_item(&key)?, left)),
        ValueKind::Plain => Err(Error::new(ErrorKind::InvalidOperation, "changed: a method is not known here")),
        _ => bounds::make(v.as_str().map_or(0, str::len)),
    }
}

/// A dict: a namespace is none, nor a macro.
pub fn is_dict(v: &Value) -> bool {
    v.kind() == ValueKind::Map && v.as_object().is_some_and(|o| o.type_name().contains("Map<"))
}

pub fn is_macro(v: &Value) -> bool {
    v.as_object().is_some_and(|o| o.type_name().ends_with("Macro"))
}

/// A whole number; a boolean is one.
pub fn whole(v: &Value) -> Option<i64> {
    match v.kind() {
        ValueKind::Bool => Some(i64::from(v.is_true())),
        ValueKind::Number if v.is_integer() => i64::try_from(v.clone()).ok(),
        _ => None,
    }
}

/// What a value has under a name that is no key of it; None where it has nothing. Methods that change values have no place in templates.
fn of_its_own(v: &Value, name: &str) -> Option<Value> {
    use names::*;
    let among = |methods: &[&[&str]]| methods.iter().any(|list| list.contains(&name));
    let method = |methods: &[&[&str]]| among(methods).then(|| Value::from_object(Method { of: v.clone(), name: name.to_owned() }));
    match v.kind() {
        ValueKind::String => method(&[STR_METHODS, STR_NOT_HERE]),
        ValueKind::Map if is_dict(v) && DICT_CHANGES.contains(&name) => Some(Value::UNDEFINED),
        ValueKind::Map if is_dict(v) => method(&[DICT_METHODS, DICT_NOT_HERE]),
        ValueKind::Seq => match (v.downcast_object_ref::<Range>(), v.downcast_object_ref::<Group>(), name) {
            (Some(range), _, "start") => Some(Value::from(range.start)),
            (Some(range), _, "stop") => Some(Value::from(range.stop)),
            (Some(range), _, "step") => Some(Value::from(range.step)),
            (_, Some(group), "grouper") => Some(group.0.clone()),
            (_, Some(group), "list") => Some(group.1.clone()),
            (Some(_), ..) => method(&[TUPLE_METHODS]),
            _ if is_tuple(v) => method(&[TUPLE_METHODS]),
            _ => method(&[LIST_METHODS]),
        },
        ValueKind::Bool | ValueKind::Number => {
            let is_float = v.kind() == ValueKind::Number && !v.is_integer();
            let number = if v.kind() == ValueKind::Bool { Value::from(i32::from(v.is_true())) } else { v.clone() };
            match name {
                "real" => Some(number),
                "imag" => Some(if is_float { Value::from(0.0) } else { Value::from(0) }),
                "numerator" if !is_float => Some(number),
                "denominator" if !is_float => Some(Value::from(1)),
                _ if is_float => method(&[FLOAT_NOT_HERE]),
                _ => method(&[INT_NOT_HERE]),
            }
        }
        _ => calls::attribute(v, name),
    }
}

/// `value.name`: what it has of its own goes before a key.
pub fn attribute(v: &Value, name: &str) -> Result<Value, Error> {
    match of_its_own(v, name) {
        Some(found) => Ok(found),
        None if is_dict(v) || !matches!(v.kind(), ValueKind::Seq | ValueKind::String) => v.get_attr(name),
        None => Ok(Value::UNDEFINED),
    }
}

/// The filter `attr`: never a key.
pub fn attribute_only(v: &Value, name: &str) -> Result<Value, Error> {
    match of_its_own(v, name) {
        Some(found) => Ok(found),
        None if is_dict(v) => Ok(Value::UNDEFINED),
        None => attribute(v, name),
    }
}

/// `value[key]`: an item goes before what it has of its own.
pub fn item(v: &Value, key: &Value) -> Result<Value, Error> {
    let found = match v.kind() {
        ValueKind::Undefined => v.get_item(key)?,
        ValueKind::Seq | ValueKind::String => match whole(key) {
            Some(i) if v.is_safe() => v.get_item(&Value::from(i)).map(|c| if c.is_undefined() { c } else { Value::from_safe_string(c.to_string()) })?,
            Some(i) => v.get_item(&Value::from(i))?,
            None => Value::UNDEFINED,
        },
        ValueKind::Map if is_dict(v) => v.get_item(&index(key.clone())?)?,
        _ => Value::UNDEFINED,
    };
    match key.as_str() {
        Some(name) if found.is_undefined() => match is_dict(v) {
            true => Ok(of_its_own(v, name).unwrap_or(found)),
            false => attribute(v, name),
        },
        _ => Ok(found),
    }
}
