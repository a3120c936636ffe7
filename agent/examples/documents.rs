//! Writes the manual pages of all verbs and the shells' completions into a directory, from the command line's one definition:
//! `documents DIR`. An example, and what it needs is for development alone, so that nothing of it is in the program.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use imds_guard::cli::Cli;

/// Administrators' commands.
const SECTION: &str = "8";

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).context("documents DIR")?;
    let directory = PathBuf::from(directory);
    for below in ["man", "completions"] {
        fs::create_dir_all(directory.join(below))?;
    }
    // No page for `help`, which is a verb to clap.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let pages = names(&command);
    page(&command, &pages, &directory.join("man"))?;
    for verb in verbs(&command) {
        page(verb, &pages, &directory.join("man"))?;
    }
    let mut command = for_people();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let to = directory.join("completions");
        clap_complete::generate_to(shell, &mut command, "imds-guard", to)?;
    }
    Ok(())
}

/// The command line without what nobody types: completions don't leave hidden verbs out by themselves.
fn for_people() -> Command {
    let all = Cli::command();
    let verbs: Vec<Command> = verbs(&all).cloned().collect();
    Command::new("imds-guard")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommands(verbs)
}

fn verbs(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set())
}

/// `imds-guard`, `imds-guard-run`, …
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

fn names(command: &Command) -> Vec<String> {
    let all = std::iter::once(command).chain(verbs(command));
    all.map(|command| name(command).to_owned()).collect()
}

/// One page, and at its end where to read on.
fn page(command: &Command, pages: &[String], directory: &Path) -> Result<()> {
    let name = name(command);
    let mut file = File::create(directory.join(format!("{name}.{SECTION}")))?;
    let page = clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .section(SECTION)
        .source(format!("imds-guard {}", env!("CARGO_PKG_VERSION")))
        .manual("imds-guard");
    page.render_title(&mut file)?;
    page.render_name_section(&mut file)?;
    page.render_synopsis_section(&mut file)?;
    page.render_description_section(&mut file)?;
    page.render_options_section(&mut file)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut file)?;
    }
    if let Some(codes) = command.get_after_long_help() {
        writeln!(
            file,
            ".SH \"EXIT STATUS\"\n.nf\n{}\n.fi",
            as_it_stands(&codes.to_string())
        )?;
    }
    let others = pages.iter().filter(|other| *other != name);
    let others: Vec<String> = others.map(|other| reference(other, SECTION)).collect();
    writeln!(file, ".SH \"SEE ALSO\"")?;
    let format = reference("imds-guard.toml", "5");
    writeln!(file, "{format}, {}", others.join(", "))?;
    Ok(())
}

/// A page's name as roff: hyphens that can be searched for.
fn reference(page: &str, section: &str) -> String {
    format!("\\fB{}\\fR({section})", page.replace('-', "\\-"))
}

/// Text for roff, whose lines stay as they are.
fn as_it_stands(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // A line that begins with one of these would be a command.
        if line.starts_with(['.', '\'']) {
            format!("\\&{line}")
        } else {
            line
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}
