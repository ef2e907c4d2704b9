//! Errors in print: the chain once, the impossible said aloud.

use std::error::Error;
use std::fmt;

/// Any error that may cross tasks.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// Prints an error and its causes, `what: why: why`, each once. A cause whose text its parent already ends with
/// is not repeated.
///
/// ```
/// let err = std::io::Error::other("disk gone");
/// assert_eq!(orkd_base::chain(&err).to_string(), "disk gone");
/// ```
pub fn chain<'a>(err: &'a (dyn Error + 'static)) -> impl fmt::Display + 'a {
    Chain(err)
}

struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed = self.0.to_string();
        f.write_str(&printed)?;
        let mut next = self.0.source();
        while let Some(err) = next {
            let text = err.to_string();
            if !text.is_empty() && !printed.ends_with(&text) {
                write!(f, ": {text}")?;
                printed = text;
            }
            next = err.source();
        }
        Ok(())
    }
}

/// States that a line cannot be reached: panics where debug assertions are on (tests), logs an error and goes on
/// in production.
///
/// ```no_run
/// # fn f(phase: u8) {
/// if phase > 3 {
///     orkd_base::never!("phase {phase} does not exist");
/// }
/// # }
/// ```
#[macro_export]
macro_rules! never {
    ($($arg:tt)*) => {{
        if cfg!(debug_assertions) {
            panic!($($arg)*);
        } else {
            $crate::__tracing::error!("should never happen: {}", format_args!($($arg)*));
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(&'static str, Option<Box<Outer>>);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }
    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|e| e as _)
        }
    }

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let err = Outer("a", Some(Box::new(Outer("b: c", Some(Box::new(Outer("c", None)))))));
        assert_eq!(chain(&err).to_string(), "a: b: c");
    }
}
