//! The command line as scripts use it: what it writes, what it refuses, and which interruptions it survives.
#![cfg(feature = "cli")]

mod config;
mod custom;
mod data;
mod embed;
mod evaluation;
mod faults;
mod files;
mod first;
mod guards;
mod help;
mod init;
mod inspect;
mod interface;
mod kcca;
mod lines;
mod local;
mod options;
mod owned;
mod paths;
mod place;
mod python;
mod rank;
mod report;
mod resume;
mod runs;
mod search;
mod shell;
mod slips;
mod split;
mod stages;
mod sweep;
mod terminal;
mod threads;
mod unused;
mod weights;
