//! The names that Jinja and Python know: which of them work here, and which are refused when a template is read.

/// Jinja's filters and tests, and those of its filters that are not made here: no chat needs them.
pub const FILTERS: &[&str] = &[
    "abs", "attr", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape", "filesizeformat", "first", "float",
    "forceescape", "format", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "pprint",
    "random", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "slice", "sort", "string", "striptags",
    "sum", "title", "tojson", "trim", "truncate", "unique", "upper", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr",
];
pub const FILTERS_NOT_HERE: &[&str] = &["filesizeformat", "random", "urlize", "wordwrap"];
pub const TESTS: &[&str] = &[
    "!=", "<", "<=", "==", ">", ">=", "boolean", "callable", "defined", "divisibleby", "eq", "equalto", "escaped", "even", "false", "filter",
    "float", "ge", "greaterthan", "gt", "in", "integer", "iterable", "le", "lessthan", "lower", "lt", "mapping", "ne", "none", "number", "odd",
    "sameas", "sequence", "string", "test", "true", "undefined", "upper",
];

/// Methods of Python's values: those that work here, and those that do not.
pub const STR_METHODS: &[&str] = &[
    "capitalize", "center", "count", "endswith", "expandtabs", "find", "format", "index", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit",
    "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "join", "ljust", "lower", "lstrip", "partition", "removeprefix",
    "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip",
    "swapcase", "title", "upper", "zfill",
];
pub const STR_NOT_HERE: &[&str] = &["casefold", "encode", "format_map", "maketrans", "translate"];
pub const DICT_METHODS: &[&str] = &["copy", "get", "items", "keys", "values"];
pub const DICT_NOT_HERE: &[&str] = &["fromkeys"];
pub const LIST_METHODS: &[&str] = &["copy", "count", "index"];
pub const TUPLE_METHODS: &[&str] = &["count", "index"];
pub const INT_NOT_HERE: &[&str] = &["as_integer_ratio", "bit_count", "bit_length", "conjugate", "from_bytes", "to_bytes"];
pub const FLOAT_NOT_HERE: &[&str] = &["as_integer_ratio", "conjugate", "fromhex", "hex", "is_integer"];
/// Methods that change a list or a dict, which templates may not.
pub const LIST_CHANGES: &[&str] = &["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
pub const DICT_CHANGES: &[&str] = &["clear", "pop", "popitem", "setdefault", "update"];
/// What numbers, ranges and macros have under these names; dicts may have keys of them.
const OTHERS: &[&str] = &[
    "real", "imag", "numerator", "denominator", "start", "stop", "step", "arguments", "catch_kwargs", "catch_varargs", "explicit_caller", "caller",
];
/// Methods of loops and of what cycler makes.
const OF_LOOPS: &[&str] = &["changed", "cycle", "next", "reset"];

const METHODS: &[&[&str]] = &[STR_METHODS, DICT_METHODS, LIST_METHODS];
const NOT_HERE: &[&[&str]] = &[STR_NOT_HERE, DICT_NOT_HERE, INT_NOT_HERE, FLOAT_NOT_HERE];

fn in_any(lists: &[&[&str]], name: &str) -> bool {
    lists.iter().any(|list| list.contains(&name))
}

/// Whether a name after a point may be that of something that is no key.
pub fn is_attribute(name: &str) -> bool {
    name.starts_with('_') || in_any(METHODS, name) || in_any(NOT_HERE, name) || in_any(&[LIST_CHANGES, DICT_CHANGES, OTHERS], name)
}

/// Whether a call of it is one of a method, whatever keys a dict has.
pub fn is_method(name: &str) -> bool {
    in_any(METHODS, name) || in_any(&[LIST_CHANGES, DICT_CHANGES, OF_LOOPS], name)
}

pub fn is_method_not_here(name: &str) -> bool {
    in_any(NOT_HERE, name)
}

/// Letters of strftime that mean the same to the C library and to chrono; those of them that may have a sign before them; and some that the
/// C library does not know, and leaves as they are.
pub const DATE: &str = "aAbBcCdDeFgGhHIjklmMnprRStTuUVwWxXyY%";
pub const DATE_SIGNED: &str = "deHIjklmMSuUVwWyY";
pub const NO_DATE: &str = "JKLNQfioqv";

/// Whether a date's format is understood here.
pub fn is_date_format(format: &str) -> bool {
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        rest = &rest[at + 1..];
        let sign = rest.starts_with(['-', '_', '0']);
        match rest.chars().nth(usize::from(sign)) {
            Some(c) if sign && !DATE_SIGNED.contains(c) && !NO_DATE.contains(c) => return false,
            Some(c) if !DATE.contains(c) && !NO_DATE.contains(c) && !"zZ".contains(c) => return false,
            Some(c) => rest = &rest[usize::from(sign) + c.len_utf8()..],
            None => return !sign,
        }
    }
    true
}
