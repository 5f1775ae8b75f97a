//! `wgoal completions` and `wgoal man`: for the shell and the manual.

use super::output::{say_bytes, shown};
use super::{help, make_folder};
use clap::{Args, Command};
use clap_complete::Shell;
use std::path::{Path, PathBuf};
use wgoal::io::{SMALL, read_text, write_regular};
use wgoal::{Error, ErrorKind, Result};

const COMPLETIONS: &str = "\
Examples:
  wgoal completions bash
  wgoal completions zsh
  wgoal completions fish";

const MAN: &str = "\
Examples:
  wgoal man            the page wgoal(1)
  wgoal man --out man  a page for every command";

#[derive(Args)]
#[command(before_long_help = COMPLETIONS)]
pub struct CompletionsArgs {
    /// Shell that completes the commands and options of wgoal
    shell: Shell,
}

impl CompletionsArgs {
    pub fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut help::command(), "wgoal", &mut script);
        say_bytes(&script)
    }
}

#[derive(Args)]
#[command(before_long_help = MAN)]
pub struct ManArgs {
    /// Folder for a page for every command [default: one page on standard output]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
}

impl ManArgs {
    pub fn run(self) -> Result<()> {
        let mut root = help::command();
        root.build();
        let Some(out) = self.out else { return say_bytes(&page(&root, "wgoal")?) };
        let mut pages = Vec::new();
        collect(&root, "wgoal", &mut pages)?;
        make_folder(&out)?;
        for (name, _) in &pages {
            refuse_foreign(&out.join(name))?;
        }
        for (name, page) in &pages {
            write_regular(&out.join(name), page)?;
        }
        note!(
            "{} pages in {}: read one with `man {}`",
            pages.len(),
            shown(&out),
            shown(&out.join("wgoal.1"))
        );
        Ok(())
    }
}

/// What a page of wgoal has near its start.
const TITLE: &str = ".TH wgoal";

/// Refuses to overwrite a file that is not a page of wgoal.
fn refuse_foreign(path: &Path) -> Result<()> {
    let found = match read_text(path, SMALL) {
        Err(obstacle) if obstacle.is_missing() => return Ok(()),
        Ok(text) if text.contains(TITLE) => return Ok(()),
        Ok(_) => "another file".to_string(),
        Err(obstacle) => obstacle.found().to_string(),
    };
    let expected = "no file, or a manual page of wgoal";
    let advice = "move it elsewhere, or choose another --out";
    Err(Error::new(ErrorKind::Config, path.display(), expected, found, advice))
}

/// Names and pages of a command and the commands below it.
fn collect(command: &Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    pages.push((format!("{name}.1"), page(command, name)?));
    for below in command.get_subcommands().filter(|below| below.get_name() != "help" && !below.is_hide_set())
    {
        collect(below, &format!("{name}-{}", below.get_name()), pages)?;
    }
    Ok(())
}

/// The page of a command, with its examples at the end.
fn page(command: &Command, name: &str) -> Result<Vec<u8>> {
    let examples = command.get_before_long_help().map(ToString::to_string).unwrap_or_default();
    // A page says only once what its command is called.
    let command = command
        .clone()
        .display_name(name.to_string())
        .before_long_help(None::<&str>)
        .after_long_help(examples);
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .title(name)
        .source(format!("wgoal {}", env!("CARGO_PKG_VERSION")))
        .render(&mut page)
        .map_err(|e| {
            Error::new(ErrorKind::Config, "man", "a page that can be written", e, "report this as a bug")
        })?;
    Ok(page)
}
