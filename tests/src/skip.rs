//! Tests that cannot run here say so, loudly, and are counted: one line each in the file that `BRIG_SKIPS` names.
//! Owns the counting; what a test needs is the test's business.

use std::io::Write;

/// Says on standard error, and in the file of skips, that a test was not run.
pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIP: {test}: {reason}");
    if let Some(path) = std::env::var_os("BRIG_SKIPS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "SKIP: {test}: {reason}")).expect("the file of skips can be written");
    }
}

/// Where a program is, looked up as a shell would.
pub fn program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"]);
    folders.map(|folder| std::path::Path::new(folder).join(name)).find(|file| file.is_file())
}

/// Ends the test here, counted as skipped, if a program is not installed.
#[macro_export]
macro_rules! needs {
    ($test:expr, $program:expr) => {
        if $crate::skip::program($program).is_none() {
            $crate::skip::skip($test, concat!($program, " is not installed"));
            return;
        }
    };
}
