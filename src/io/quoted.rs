//! Words of commands that a message shows.

use std::path::Path;

/// A path as an argument in a command that the reader can copy into a shell.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    // A leading dash would make it an option.
    shell_word(&if text.starts_with('-') { format!("./{text}") } else { text })
}

/// A text as one word of a command that the reader can copy into a shell.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    match text {
        text if !text.is_empty() && text.chars().all(|c| is_plain(c) || (cfg!(windows) && c == '\\')) => {
            text.into()
        }
        text if cfg!(windows) => format!("\"{text}\""),
        text => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::quoted;
    use std::path::Path;

    /// A shell reads a quoted path as one argument, the path itself.
    #[test]
    fn a_shell_reads_quoted_paths_back() {
        for path in ["runs/a-b_1.0", "my runs/a", "it's", "a\"b$HOME`x`\\", "*", "~", "a;b&c|d", "é ü"] {
            let script = format!("printf %s {}", quoted(Path::new(path)));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), path, "{script}");
        }
        assert_eq!(quoted(Path::new("runs/a")), "runs/a");
        assert_eq!(quoted(Path::new("-x")), "./-x");
    }
}
