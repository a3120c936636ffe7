//! What to measure, and for how long.

use crate::contest::Extent;
use anyhow::{Result, bail};

/// A part of the bench that can be run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Start,
    Decide,
    Http,
    Forward,
    Programs,
}

const SECTIONS: [(&str, Section); 5] = [
    ("start", Section::Start),
    ("decide", Section::Decide),
    ("http", Section::Http),
    ("forward", Section::Forward),
    ("programs", Section::Programs),
];

/// The command line.
#[derive(Debug)]
pub(crate) struct Options {
    quick: bool,
    pub(crate) json: bool,
    only: Option<Section>,
}

impl Options {
    /// From `--quick`, `--json`, `--only SECTION`.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            quick: false,
            json: false,
            only: None,
        };
        let mut arguments = arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            match argument {
                "--quick" => options.quick = true,
                "--json" => options.json = true,
                "--only" => options.only = Some(section(arguments.next())?),
                other => bail!("{other}? bench [--quick] [--json] [--only SECTION]"),
            }
        }
        Ok(options)
    }

    pub(crate) fn wants(&self, section: Section) -> bool {
        self.only.is_none_or(|only| only == section)
    }

    pub(crate) fn wants_traffic(&self) -> bool {
        [Section::Http, Section::Forward, Section::Programs]
            .into_iter()
            .any(|s| self.wants(s))
    }

    /// Rounds and seconds of each load: all in all less than six minutes, or less than one and a half.
    pub(crate) fn extent(&self, section: Section) -> Extent {
        match (section, self.quick) {
            (Section::Forward, true) => Extent {
                rounds: 2,
                seconds: 1,
            },
            (_, true) => Extent {
                rounds: 3,
                seconds: 1,
            },
            (_, false) => Extent {
                rounds: 5,
                seconds: 2,
            },
        }
    }

    /// Connections of each load for the kernel programs.
    pub(crate) fn dials(&self) -> u32 {
        if self.quick { 4_000 } else { 20_000 }
    }
}

fn section(name: Option<&str>) -> Result<Section> {
    match SECTIONS.iter().find(|(known, _)| Some(*known) == name) {
        Some((_, section)) => Ok(*section),
        None => bail!(
            "--only one of: {}",
            SECTIONS.map(|(name, _)| name).join(", ")
        ),
    }
}
