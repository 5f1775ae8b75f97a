//! Reports: what a run leaves for its report, and the pages of `wgoal train`, `wgoal compare` and `wgoal sweep`.
//!
//! A page is one HTML file. It loads nothing, runs no script, follows the light or dark mode of the reader, and fits a
//! phone. Its texts are escaped.

mod compare;
mod figures;
mod outcome;
mod page;
mod run;
mod run_page;
mod sample;
mod sweep;

pub use compare::{Compared, Comparison};
pub use outcome::{Corrected, Example, Outcome, Ranked, Reference};
pub use run::{OUTCOME, PAGE, Run, SAMPLES};
pub use sample::Sample;
pub use sweep::sweep_page;
