//! Values of Python's that minijinja does not have: tuples, the views of a dict, and methods that are not called.

use crate::{pymethods, pytext};
use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, State, Value};
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
struct Method {
    of: Value,
    name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        pymethods::call(state, &self.of, &self.name, args)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<built-in method {} of {} object>", self.name, pytext::type_name(&self.of))
    }
}

/// A dict: a namespace is none, nor a macro.
pub fn is_dict(v: &Value) -> bool {
    v.kind() == ValueKind::Map && v.as_object().is_some_and(|o| o.type_name().contains("Map<"))
}

/// `value.name`, where the name is that of a method of dicts or texts.
pub fn attribute(v: Value, name: String) -> Result<Value, Error> {
    const OF_DICTS: [&str; 5] = ["items", "keys", "values", "get", "copy"];
    let method = if is_dict(&v) { OF_DICTS.contains(&&name[..]) } else { v.as_str().is_some() && !OF_DICTS.contains(&&name[..]) };
    if method {
        return Ok(Value::from_object(Method { of: v, name }));
    }
    v.get_attr(&name)
}
