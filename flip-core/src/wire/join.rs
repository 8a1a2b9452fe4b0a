//! What a server says that is not in the cluster yet, and what it is answered: frames of their own, over TCP, one
//! question and one answer per connection.
//!
//! ```text
//!  0  u8   0xE1                  join, version 1
//!  1  u8   key id                as in a packet
//!  2  u8   direction             0 question, 1 answer
//!  3  u8   zero
//!  4  [4]  cluster tag           as in a packet
//!  8  [24] nonce                 random
//! 32  ...  ciphertext
//!  +16     Poly1305 tag          associated data = bytes 0..32
//! ```
//!
//! The keys are derived for this use and direction, so that nothing of it passes for a packet, nor an answer for a
//! question. That a frame opens proves that its sender has the cluster's key; that it is not a recording, the echo of
//! a challenge proves.

use bincode::{Decode, Encode};

use super::codec;
use super::message::Exchange;
use super::ring::key_id;
use super::seal::{Cipher, HEADER, TAG, tag};
use crate::config::ClusterKey;
use crate::limits;

/// The first byte.
pub const JOIN: u8 = 0xE1;

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From who wants to join.
    Question,
    /// To it.
    Answer,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Question {
    /// Chosen at random for one attempt, the same in all its questions.
    pub attempt: [u8; 16],
    /// As it was answered last; zero when it was not.
    pub challenge: [u8; 16],
    /// What is wanted.
    pub wish: Wish,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Wish {
    /// To be a server of the cluster.
    Enter {
        /// Its id.
        id: String,
        /// Its entry in `servers`, as JSON.
        entry: String,
    },
    /// The catalog, or what of it comes after this bucket and key.
    Page(Option<(u16, Option<crate::catalog::Key>)>),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Answer {
    /// From the question.
    pub attempt: [u8; 16],
    /// What is said.
    pub said: Said,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Said {
    /// Ask again with this: it proves that the question is not a recording.
    Challenge([u8; 16]),
    /// It is being done: ask again.
    Wait,
    /// It is not done, and why. `again`: a later attempt may do better.
    Refused {
        /// One line for people.
        why: String,
        /// Whether time may mend it.
        again: bool,
    },
    /// The server is one of the cluster now.
    Entered,
    /// A page of the catalog.
    Page(Exchange),
}

/// A frame of this content. `random` must be fresh.
pub fn seal(
    key: &ClusterKey,
    cluster_id: &str,
    way: Way,
    content: &impl Encode,
    random: [u8; 24],
) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&[JOIN, key_id(key), way as u8, 0]);
    frame.extend_from_slice(&tag(super::seal::WIRE, key, cluster_id));
    frame.extend_from_slice(&random);
    codec::encode(content, &mut frame);
    let (header, text) = frame.split_at_mut(HEADER);
    let sum = cipher(key, cluster_id, way).seal(header, &random, text);
    frame.extend_from_slice(&sum);
    frame
}

/// The content of a frame, and which of the keys it was sealed with; none when it is damaged, forged, or of another
/// cluster.
pub fn open<'k, T: Decode<()>>(
    keys: impl IntoIterator<Item = &'k ClusterKey>,
    cluster_id: &str,
    way: Way,
    frame: &[u8],
) -> Option<(&'k ClusterKey, T)> {
    if frame.len() > limits::FRAME {
        return None;
    }
    let (header, rest) = frame.split_at_checked(HEADER)?;
    let (text, sum) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
    let key = keys.into_iter().find(|key| {
        let tag = tag(super::seal::WIRE, key, cluster_id);
        header[..4] == [JOIN, key_id(key), way as u8, 0] && header[4..8] == tag
    })?;
    let mut body = text.to_vec();
    let random = std::array::from_fn(|at| header[8 + at]);
    let sum = std::array::from_fn(|at| sum[at]);
    cipher(key, cluster_id, way).open(header, &random, &mut body, sum).ok()?;
    Some((key, codec::decode(&body).ok()?))
}

fn cipher(key: &ClusterKey, cluster_id: &str, way: Way) -> Cipher {
    let context = match way {
        Way::Question => "flip join question v1",
        Way::Answer => "flip join answer v1",
    };
    Cipher::new(context, key, cluster_id, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        let wish = Wish::Enter { id: "c".into(), entry: "{}".into() };
        Question { attempt: [1; 16], challenge: [2; 16], wish }
    }

    #[test]
    fn a_frame_opens_with_its_key_cluster_and_way_alone() {
        let key = ClusterKey([7; 32]);
        let frame = seal(&key, "flip", Way::Question, &question(), [3; 24]);
        let other = ClusterKey([8; 32]);
        let opened: Option<(_, Question)> = open([&other, &key], "flip", Way::Question, &frame);
        assert_eq!(opened.map(|(key, question)| (key.0, question)), Some(([7; 32], question())));
        assert!(open::<Question>([&other], "flip", Way::Question, &frame).is_none());
        assert!(open::<Question>([&key], "flop", Way::Question, &frame).is_none());
        assert!(open::<Question>([&key], "flip", Way::Answer, &frame).is_none());
        let mut turned = frame.clone();
        turned[2] = Way::Answer as u8;
        assert!(open::<Question>([&key], "flip", Way::Answer, &turned).is_none(), "a question is no answer");
        for at in 0..frame.len() {
            let mut forged = frame.clone();
            forged[at] ^= 1;
            assert!(open::<Question>([&key], "flip", Way::Question, &forged).is_none(), "byte {at}");
            assert!(open::<Question>([&key], "flip", Way::Question, &frame[..at]).is_none(), "{at} bytes");
        }
    }

    /// As it was released: it opens, and is made again byte for byte, for as long as version 1 is spoken.
    #[test]
    #[cfg(not(feature = "harness"))]
    fn the_first_version_stays_as_it_is() {
        let frame = seal(&ClusterKey([7; 32]), "flip", Way::Question, &question(), [3; 24]);
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "e1eb0000646d462d030303030303030303030303030303030303030303030303e876e635801f6eaa26c3b372a548a595\
             434a125e30c18f627d6fe8126dce2aca5d208c641306ce1190dbd60016eda5a7df68fd6b23a7"
        );
    }
}
