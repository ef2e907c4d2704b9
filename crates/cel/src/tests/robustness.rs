//! No text makes the engine panic, overflow its stack, or run without end.

use super::env;
use crate::eval::{Bindings, Budget};
use crate::types::Type;
use proptest::prelude::*;
use serde_json::json;

fn run(expression: &str) {
    let env = env().variable("object", Type::Dyn).variable("s", Type::String).build();
    if let Ok(program) = env.compile(expression) {
        let object = json!({"a": [1, 2.5, "x", null, {"b": []}], "c": {"d": true}});
        let bindings = Bindings::new().with("object", &object).with("s", "text");
        let _ = program.eval(&bindings, &mut Budget::new(100_000));
    }
}

/// On half the stack that the runtime's threads have.
fn on_small_stack(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(run).expect("a thread");
    thread.join().expect("no panic");
}

#[test]
fn deep_nesting_ends_in_an_error_or_fits() {
    on_small_stack(|| {
        for depth in [1, 10, 40, 60, 80, 120, 248, 249, 250, 251, 1000, 30_000] {
            for (open, middle, close) in [
                ("(", "1", ")"),
                ("[", "", "]"),
                ("{'a':", "1", "}"),
                ("-(", "1", ")"),
                ("!(", "true", ")"),
                ("size([", "1", "])"),
                ("true ? 1 : ", "2", ""),
                ("object[", "'a'", "]"),
                ("[1].map(x, ", "x", ")"),
                ("[1].all(x, ", "true", ")"),
                ("cel.bind(x, ", "1", ", x)"),
                ("cel.bind(x, 1, ", "x", ")"),
                ("optional.of(1).optMap(x, ", "x", ")"),
                ("1 + ", "1", ""),
                ("true && ", "true", ""),
            ] {
                run(&format!("{}{middle}{}", open.repeat(depth), close.repeat(depth)));
            }
            run(&format!("object{}", ".a".repeat(depth)));
            run(&format!("object{}", ".?a".repeat(depth)));
            run(&format!("object{}", "[0]".repeat(depth)));
            run(&format!("1{}", " + 1".repeat(depth)));
        }
    });
}

#[test]
fn long_texts_are_bounded() {
    run(&"a".repeat(100_001));
    run(&format!("'{}'", "x".repeat(99_000)));
    run(&format!("[{}]", "1,".repeat(40_000)));
    run(&vec!["true"; 12_000].join("&&"));
}

#[test]
fn nothing_grows_without_end() {
    let product = "('x'.replace('x', s)).replace('', s).replace('', s).replace('', s).replace('', s).size() > 0";
    let program = env().variable("s", Type::String).build().compile(product).expect("it compiles");
    let result = program.eval(&Bindings::new().with("s", "x".repeat(3000)), &mut Budget::new(u64::MAX));
    assert_eq!(result.map(|_| ()).map_err(|e| e.to_string()), Err("the resulting string is too long".into()));
    // Doubling a text costs what it is long.
    let doubling = (0..60).fold("s".to_owned(), |e, n| format!("cel.bind(x{n}, {e}, x{n} + x{n})"));
    run(&doubling);
    let program = env().variable("s", Type::String).build().compile(&doubling).expect("it compiles");
    let result = program.eval(&Bindings::new().with("s", "text"), &mut Budget::new(100_000));
    assert_eq!(
        result.map(|_| ()).map_err(|e| e.to_string()),
        Err("operation cancelled: actual cost limit exceeded".into())
    );
}

#[test]
fn joined_lists_are_bounded() {
    let size = |times: usize| {
        let doubled = (0..times).fold("[1, 2]".to_owned(), |e, n| format!("cel.bind(x{n}, {e}, x{n} + x{n})"));
        let program = env().build().compile(&format!("({doubled}).size()")).expect("it compiles");
        program.eval(&Bindings::new(), &mut Budget::new(1000)).map(|size| size.to_string())
    };
    assert_eq!(size(20), Ok((2 << 20).to_string()));
    assert_eq!(size(60).map_err(|e| e.to_string()), Err("the resulting list is too long".to_owned()));
}

proptest! {
    #[test]
    fn any_text_is_compiled_or_refused(text in "\\PC{0,60}") {
        run(&text);
    }

    #[test]
    fn pieces_of_expressions_do_not_panic(pieces in prop::collection::vec(prop::sample::select(vec![
        "object", "s", ".a", ".?a", "[0]", "[?0]", "['a']", "(", ")", "[", "]", "{", "}", ",", ":", "?", "1", "2u", "-", "1.5", "'x'",
        "b'y'", "true", "null", " + ", " == ", " && ", " || ", " in ", "!", ".all(x, ", ".map(x, ", ".exists(i, v, ", "x", "size(",
        "has(", "int(", "string(", "duration(", ".size()", ".matches(", "optional.of(", ".orValue(", "cel.bind(y, ", "quantity(",
        "semver('1.2.3')", "type(", "dyn(", " % ", " / ", "-9223372036854775808", "timestamp(0)", ".getHours(", "{'a': 1}", "[1, 2]",
    ]), 0..14)) {
        run(&pieces.concat());
    }
}
