//! The result of `wgoal eval`, as a table and as JSON.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use wgoal::Recall;
use wgoal::eval::{Evaluation, Measures, Ranking};

/// The line of JSON.
#[derive(Serialize)]
pub struct Summary {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    pub folds: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equal_captions: Option<String>,
    #[serde(flatten)]
    pub recall: Recall,
    pub measures: BothMeasures,
    /// Recall without the correction for hubs, if the head has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain: Option<Recall>,
    /// Recall before re-ranking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_stage: Option<Recall>,
    pub device: String,
}

#[derive(Serialize)]
pub struct BothMeasures {
    i2t: Numbers,
    t2i: Numbers,
}

#[derive(Serialize)]
struct Numbers {
    /// Recall@K by K.
    recall: BTreeMap<usize, f64>,
    map_at_r: f64,
    r_precision: f64,
    mrr: f64,
    ndcg: f64,
}

impl From<&Measures> for Numbers {
    fn from(measures: &Measures) -> Self {
        let Measures { recall_at, map_at_r, r_precision, mrr, ndcg, .. } = measures;
        let recall = recall_at.iter().copied().collect();
        Self { recall, map_at_r: *map_at_r, r_precision: *r_precision, mrr: *mrr, ndcg: *ndcg }
    }
}

impl From<&Evaluation> for BothMeasures {
    fn from(evaluation: &Evaluation) -> Self {
        Self { i2t: (&evaluation.i2t).into(), t2i: (&evaluation.t2i).into() }
    }
}

/// The table of an evaluation.
pub struct Table<'a> {
    pub evaluation: &'a Evaluation,
    /// The same with the correction for hubs.
    pub corrected: Option<&'a Evaluation>,
    /// Whether all measures are shown, or recall and ranks alone.
    pub all: bool,
}

impl Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:14}", "")?;
        for (k, _) in &self.evaluation.i2t.recall_at {
            write!(f, " {:>6}", format!("R@{k}"))?;
        }
        write!(f, " {:>6} {:>7}", "medr", "meanr")?;
        if self.all {
            write!(f, " {:>6} {:>6} {:>6} {:>6}", "mAP@R", "R-prec", "MRR", "nDCG")?;
        }
        writeln!(f)?;
        let row = |f: &mut fmt::Formatter<'_>, name, ranking: &Ranking, measures: &Measures| {
            write!(f, "{name:14}")?;
            for (_, recall) in &measures.recall_at {
                write!(f, " {recall:6.1}")?;
            }
            write!(f, " {:6.0} {:7.1}", ranking.medr, ranking.meanr)?;
            if self.all {
                let Measures { map_at_r, r_precision, mrr, ndcg, .. } = measures;
                write!(f, " {map_at_r:6.1} {r_precision:6.1} {mrr:6.1} {ndcg:6.1}")?;
            }
            writeln!(f)
        };
        let rows = |f: &mut fmt::Formatter<'_>, Evaluation { recall, i2t, t2i, .. }: &Evaluation| {
            row(f, "image to text", &recall.i2t, i2t)?;
            row(f, "text to image", &recall.t2i, t2i)?;
            write!(f, "rsum {:.1} of 600", recall.rsum)
        };
        rows(f, self.evaluation)?;
        if let Some(corrected) = self.corrected {
            f.write_str("\ncorrected for hubs\n")?;
            rows(f, corrected)?;
        }
        Ok(())
    }
}
