//! What the language itself gives.

use super::{check, env, eval};
use crate::eval::Bindings;
use crate::types::Type;
use crate::value::Value;
use serde_json::json;

#[test]
fn arithmetic() {
    check(&[
        ("1 + 2 * 3 - 4 / 2 % 3", "5"),
        ("-7 / 2", "-3"),
        ("-7 % 2", "-1"),
        ("1u + 2u", "3u"),
        ("1.5 * 2.0", "3.0"),
        ("1.0 / 0.0", "inf"),
        ("'a' + 'b'", "\"ab\""),
        ("b'a' + b'b'", "b\"ab\""),
        ("[1] + [2, 3]", "[1, 2, 3]"),
        ("-(1)", "-1"),
        ("1 / 0", "error: division by zero"),
        ("1 % 0", "error: modulus by zero"),
        ("1u / 0u", "error: division by zero"),
        ("9223372036854775807 + 1", "error: integer overflow"),
        ("-9223372036854775808 - 1", "error: integer overflow"),
        ("-(-9223372036854775808)", "error: integer overflow"),
        ("-9223372036854775808 / -1", "error: integer overflow"),
        ("0u - 1u", "error: unsigned integer overflow"),
        ("9223372036854775807 * 2", "error: integer overflow"),
    ]);
}

#[test]
fn logic_takes_the_side_that_decides() {
    check(&[
        ("true && false", "false"),
        ("false || true", "true"),
        ("1 / 0 > 0 || true", "true"),
        ("true || 1 / 0 > 0", "true"),
        ("1 / 0 > 0 && false", "false"),
        ("false && 1 / 0 > 0", "false"),
        ("1 / 0 > 0 && true", "error: division by zero"),
        ("false || 1 / 0 > 0", "error: division by zero"),
        ("1 % 0 > 0 || 1 / 0 > 0", "error: modulus by zero"),
        ("dyn(1) && true", "error: no such overload"),
        ("!false", "true"),
        ("true ? 1 : 1 / 0", "1"),
        ("1 / 0 > 0 ? 1 : 2", "error: division by zero"),
        ("dyn('x') ? 1 : 2", "error: no such overload"),
    ]);
}

#[test]
fn equality_and_order() {
    check(&[
        ("1 == 1", "true"),
        ("dyn(1) == 1u", "true"),
        ("dyn(1) == 1.0", "true"),
        ("dyn(1) == 'a'", "false"),
        ("dyn(1) != null", "true"),
        ("[1, 2] == [1, 2]", "true"),
        ("[1] == [1, 2]", "false"),
        ("{'a': 1, 'b': 2} == {'b': 2, 'a': 1}", "true"),
        ("{'a': 1} == {'a': 2}", "false"),
        ("1 < 2u", "true"),
        ("2.5 > 2", "true"),
        ("'a' < 'b'", "true"),
        ("b'a' >= b'b'", "false"),
        ("false < true", "true"),
        ("dyn('a') < 1", "error: no such overload: _<_(string, int)"),
        ("0.0 / 0.0 == 0.0 / 0.0", "false"),
        ("0.0 / 0.0 < 1.0", "false"),
        ("type(1) == int", "true"),
        ("type(type(1)) == type", "true"),
        ("type(timestamp('2020-01-01T00:00:00Z')) == google.protobuf.Timestamp", "true"),
    ]);
}

#[test]
fn lists_and_maps() {
    check(&[
        ("[1, 2, 3][1]", "2"),
        ("[1, 2][dyn(1u)]", "2"),
        ("[1][1]", "error: index out of bounds: 1"),
        ("[1][-1]", "error: index out of bounds: -1"),
        ("dyn([1])['a']", "error: unsupported index type 'string' in list"),
        ("{'a': 1}['a']", "1"),
        ("{'a': 1}.a", "1"),
        ("{'a': 1}.b", "error: no such key: b"),
        ("{1: 'x'}[2]", "error: no such key: 2"),
        ("dyn({1: 'x'})[1u]", "\"x\""),
        ("has({'a': 1}.a) && !has({'a': 1}.b)", "true"),
        ("2 in [1, 2]", "true"),
        ("'a' in {'a': 1}", "true"),
        ("size([1, 2]) + size('ü') + size(b'abc') + {'a': 1}.size()", "7"),
        ("{'a': 1, 'a': 2}", "error: Failed with repeated key: a"),
        ("{dyn(1.5): 1}", "error: unsupported key type"),
    ]);
}

#[test]
fn comprehensions() {
    check(&[
        ("[1, 2, 3].all(x, x > 0)", "true"),
        ("[1, 2, 3].all(x, x > 1)", "false"),
        ("[].all(x, x > 1)", "true"),
        ("[1, 0].all(x, 1 / x > 5)", "false"),
        ("[0, 1].all(x, 1 / x > 0)", "error: division by zero"),
        ("[0, 1].exists(x, 1 / x > 0)", "true"),
        ("[0, 2].exists(x, 1 / x > 0)", "error: division by zero"),
        ("[1, 2, 2].exists_one(x, x == 1)", "true"),
        ("[1, 2, 2].exists_one(x, x == 2)", "false"),
        ("[1, 2, 3].map(x, x * 2)", "[2, 4, 6]"),
        ("[1, 2, 3].map(x, x > 1, x * 2)", "[4, 6]"),
        ("[1, 2, 3].filter(x, x != 2)", "[1, 3]"),
        ("{'b': 1, 'a': 2}.map(k, k)", "[\"a\", \"b\"]"),
        ("[[1, 2], [3]].map(x, x.map(y, y + size(x)))", "[[3, 4], [4]]"),
        ("[1, 2].map(x, [3].map(x, x)[0] + x)", "[4, 5]"),
        ("[1, 2, 3].all(i, v, v == i + 1)", "true"),
        ("{'a': 1}.exists(k, v, k == 'a' && v == 1)", "true"),
        ("[5, 6].transformList(i, v, i * v)", "[0, 6]"),
        ("[5, 6].transformList(i, v, i > 0, v)", "[6]"),
        ("[5, 6].transformMap(i, v, v * 2)", "{0: 10, 1: 12}"),
        ("{'a': 'x'}.transformMapEntry(k, v, {v: k})", "{\"x\": \"a\"}"),
        ("{'a': 'x', 'b': 'x'}.transformMapEntry(k, v, {v: k})", "error: insert failed: key x already exists"),
        ("cel.bind(x, 2, x * x)", "4"),
        ("cel.bind(x, 1 / 0, 2)", "2"),
        ("cel.bind(x, 1 / 0, x)", "error: division by zero"),
        ("dyn(1).all(x, true)", "error: got 'types.Int', expected iterable type"),
    ]);
}

#[test]
fn optional_values() {
    check(&[
        ("optional.of(1)", "some(1)"),
        ("optional.none().hasValue()", "false"),
        ("optional.ofNonZeroValue('')", "none"),
        ("optional.of(1).value()", "1"),
        ("optional.none().value()", "error: optional.none() dereference"),
        ("{'a': {'b': 1}}.?a.b", "some(1)"),
        ("{'a': {'b': 1}}.?a.?c.orValue(7)", "7"),
        ("{'a': {'b': 1}}.?x.?c.orValue(7)", "7"),
        ("[1][?0].orValue(5) + [1][?3].orValue(5)", "6"),
        ("{'a': 1}[?'b'].or(optional.of(3)).value()", "3"),
        ("has({'a': {'b': 1}}.?a.b)", "true"),
        ("[?optional.none(), ?optional.of(2), 3]", "[2, 3]"),
        ("{?'a': optional.none(), ?'b': optional.of(1)}", "{\"b\": 1}"),
        ("optional.of(2).optMap(x, x * 2)", "some(4)"),
        ("optional.of({'a': 1}).optFlatMap(x, x.?b)", "none"),
        ("optional.of(1) == optional.of(1)", "true"),
    ]);
}

#[test]
fn conversions() {
    check(&[
        ("int('-12') + int(3.9) + int(2u)", "-7"),
        ("int('x')", "error: strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("int('9223372036854775808')", "error: strconv.ParseInt: parsing \"9223372036854775808\": value out of range"),
        ("int(1e20)", "error: integer overflow"),
        ("uint(-1)", "error: unsigned integer overflow"),
        ("uint('5')", "5u"),
        ("double('1.5') + double(1)", "2.5"),
        ("string(1.0) + string(true) + string(b'x') + string(1e6)", "\"1truex1e+06\""),
        ("string(b'\\xff')", "error: invalid UTF-8 in bytes, cannot convert to string"),
        ("bytes('ü')", "b\"\\xc3\\xbc\""),
        ("bool('true') && !bool('f')", "true"),
        ("string(duration('90m'))", "\"5400s\""),
        ("string(timestamp('2020-01-01T01:00:00+01:00'))", "\"2020-01-01T00:00:00Z\""),
        ("dyn('x')", "\"x\""),
        ("string(type(1))", "found no matching overload for 'string' applied to '(type(int))'"),
    ]);
}

#[test]
fn times() {
    check(&[
        ("timestamp('2020-02-29T12:30:15.5Z').getDate()", "29"),
        ("timestamp('2020-02-29T12:30:15.5Z').getMonth()", "1"),
        ("timestamp('2020-02-29T12:30:15.5Z').getDayOfMonth()", "28"),
        ("timestamp('2020-02-29T12:30:15.5Z').getDayOfYear()", "59"),
        ("timestamp('2020-02-29T12:30:15.5Z').getDayOfWeek()", "6"),
        ("timestamp('2020-02-29T12:30:15.5Z').getMilliseconds()", "500"),
        ("timestamp('2020-02-29T23:30:15Z').getHours('+01:00')", "0"),
        ("timestamp('2020-01-02T00:00:00Z') - timestamp('2020-01-01T00:00:00Z') == duration('24h')", "true"),
        ("timestamp('2020-01-01T00:00:00Z') + duration('1s')", "timestamp(2020-01-01T00:00:01Z)"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s')", "error: timestamp overflow"),
        ("duration('1h').getMinutes()", "60"),
        ("duration('90s') < duration('2m')", "true"),
        ("duration(string(unset))", "error: no such attribute(s): unset"),
    ]);
}

#[test]
fn json_is_borrowed_and_typed() {
    let env = env().variable("object", Type::Dyn).build();
    let object = json!({"spec": {"replicas": 3, "ratio": 0.5, "on": true, "none": null, "tags": ["a", "b"], "big": 18446744073709551615u64}});
    let bindings = Bindings::new().with("object", Value::from(&object));
    for (expression, want) in [
        ("object.spec.replicas + 1", "4"),
        ("object.spec.ratio < 1.0", "true"),
        ("object.spec.none == null", "true"),
        ("'a' in object.spec.tags", "true"),
        ("object.spec.tags.map(t, t + '!')", "[\"a!\", \"b!\"]"),
        ("has(object.spec.on) && !has(object.spec.off)", "true"),
        ("object.metadata.name", "error: no such key: metadata"),
        ("object.spec.replicas.x", "error: no such overload"),
        ("object.spec.on.startsWith('x')", "error: no such overload: startsWith(bool, string)"),
        ("object.spec.all(k, k.size() > 1)", "true"),
        ("object.spec.map(k, k)[0]", "\"big\""),
        ("object.spec == object.spec", "true"),
        ("object.?spec.?tags[?1].orValue('')", "\"b\""),
    ] {
        assert_eq!(eval(&env, expression, &bindings), want, "{expression}");
    }
}
