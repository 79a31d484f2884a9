//! The people behind every simulator: [`Person::new`] makes the person of a number from nothing but the seed, in
//! constant time, so that any part of a large audience can be made, and checked, on its own.
//! What a vendor makes of a person (its record and the `user.v1` row that record means) is in the vendor's folder.
//!
//! The data is as unkind as real data: every sixteen people the same oddities come by, see [`Oddity`].

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};

/// One person. Absent facts are unknown to every vendor.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    pub index: u64,
    pub oddity: Oddity,
    /// The application's own id; none if the person never signed in.
    pub user_id: Option<String>,
    /// Other names: label and name.
    pub aliases: Vec<(&'static str, String)>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub email: Option<String>,
    pub phone: Option<String>,
    pub gender: Option<Gender>,
    pub birth_date: Option<NaiveDate>,
    pub country: Option<&'static str>,
    pub city: Option<&'static str>,
    pub language: Option<&'static str>,
    pub time_zone: Option<&'static str>,
    /// Never on a whole second.
    pub created_at: Option<DateTime<Utc>>,
    pub plan: &'static str,
    pub age: Option<u64>,
    pub score: Option<f64>,
    /// Free text; where the data gets nasty.
    pub note: Option<&'static str>,
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gender {
    Female,
    Male,
    Other,
}

/// What is unusual about a person; goes round every sixteen people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    None,
    /// No id of the application.
    Anonymous,
    /// Values that a spreadsheet would run.
    Formulas,
    /// Emoji, combining marks, right-to-left text, also in the id.
    Unicode,
    /// What is unknown is said to be null.
    Nulls,
    /// What is unknown is left out, and nearly all is unknown.
    Bare,
    /// Quotes, backslashes, line ends of every kind.
    Quotes,
    /// Numbers beyond 2^53 and 2^64, numbers as text.
    Numbers,
    /// Objects in lists in objects.
    Nested,
    /// Hundreds of events.
    LongLists,
    /// Known by aliases only, two of them under one label.
    Aliases,
    /// Empty texts, empty lists, empty objects.
    Empty,
    /// Several devices and apps.
    Devices,
    /// Values in other forms than the documents promise.
    Loose,
}

const ODDITIES: [Oddity; 16] = [
    Oddity::None,
    Oddity::Unicode,
    Oddity::None,
    Oddity::Anonymous,
    Oddity::Formulas,
    Oddity::Quotes,
    Oddity::Nulls,
    Oddity::Bare,
    Oddity::Numbers,
    Oddity::Nested,
    Oddity::LongLists,
    Oddity::Aliases,
    Oddity::None,
    Oddity::Empty,
    Oddity::Devices,
    Oddity::Loose,
];

struct Place {
    country: &'static str,
    city: &'static str,
    language: &'static str,
    time_zone: &'static str,
    dialling: &'static str,
    first_names: [(&'static str, Gender); 4],
    last_names: [&'static str; 4],
}

const PLACES: [Place; 6] = [
    Place {
        country: "DE",
        city: "Köln",
        language: "de",
        time_zone: "Europe/Berlin",
        dialling: "+49",
        first_names: [
            ("Anna", Gender::Female),
            ("Jürgen", Gender::Male),
            ("Lena", Gender::Female),
            ("Kim", Gender::Other),
        ],
        last_names: ["Schäfer", "Groß", "Yılmaz", "von der Heide"],
    },
    Place {
        country: "CN",
        city: "上海",
        language: "zh",
        time_zone: "Asia/Shanghai",
        dialling: "+86",
        first_names: [("伟", Gender::Male), ("芳", Gender::Female), ("秀英", Gender::Female), ("磊", Gender::Male)],
        last_names: ["王", "李", "张", "欧阳"],
    },
    Place {
        country: "US",
        city: "Chicago",
        language: "en",
        time_zone: "America/Chicago",
        dialling: "+1",
        first_names: [
            ("Emily", Gender::Female),
            ("James", Gender::Male),
            ("Aaliyah", Gender::Female),
            ("Alex", Gender::Other),
        ],
        last_names: ["Smith", "O'Neill", "García-López", "Null"],
    },
    Place {
        country: "BR",
        city: "São Paulo",
        language: "pt",
        time_zone: "America/Sao_Paulo",
        dialling: "+55",
        first_names: [
            ("João", Gender::Male),
            ("Conceição", Gender::Female),
            ("Luíza", Gender::Female),
            ("Caio", Gender::Male),
        ],
        last_names: ["da Silva", "Souza", "d'Ávila", "Assunção"],
    },
    Place {
        country: "JP",
        city: "東京",
        language: "ja",
        time_zone: "Asia/Tokyo",
        dialling: "+81",
        first_names: [
            ("さくら", Gender::Female),
            ("蓮", Gender::Male),
            ("陽菜", Gender::Female),
            ("翔太", Gender::Male),
        ],
        last_names: ["佐藤", "髙橋", "渡邉", "鈴木"],
    },
    Place {
        country: "EG",
        city: "القاهرة",
        language: "ar",
        time_zone: "Africa/Cairo",
        dialling: "+20",
        first_names: [
            ("محمد", Gender::Male),
            ("فاطمة", Gender::Female),
            ("ليلى", Gender::Female),
            ("عمر", Gender::Male),
        ],
        last_names: ["حسن", "إبراهيم", "عبد الله", "السيد"],
    },
];

impl Person {
    /// The person of that number. The same seed and number make the same person, always.
    #[expect(clippy::cast_precision_loss, reason = "a score below ten thousand")]
    pub fn new(seed: u64, index: u64) -> Self {
        let oddity = *pick(&ODDITIES, index);
        let draw = |topic: Topic, below: u64| draw(seed, index, topic as u64, below);
        let place = pick(&PLACES, draw(Topic::Place, PLACES.len() as u64));
        let (first_name, gender) = *pick(&place.first_names, draw(Topic::FirstName, 4));
        let known = !matches!(oddity, Oddity::Bare | Oddity::Nulls);
        // Ordinary people have told everything.
        let told = |topic: Topic, not_of_ten: u64| known && (oddity == Oddity::None || draw(topic, 10) >= not_of_ten);
        let born = NaiveDate::from_ymd_opt(1950, 1, 1)
            .and_then(|day| day.checked_add_days(Days::new(draw(Topic::Born, 20_000))));
        let created = DateTime::from_timestamp(1_577_836_800, 0).map(|start| {
            start
                + TimeDelta::milliseconds(
                    (draw(Topic::Created, 150_000_000) * 1000 + 1 + draw(Topic::Millis, 999)).cast_signed(),
                )
        });
        Self {
            index,
            oddity,
            user_id: user_id(oddity, index),
            aliases: aliases(oddity, index),
            first_name: known.then(|| match oddity {
                Oddity::Formulas => "=1+1".to_owned(),
                Oddity::Unicode => "Zoe\u{308} 👩‍👩‍👧‍👦".to_owned(),
                Oddity::Quotes => "Dwayne \"The Rock\"".to_owned(),
                _ => first_name.to_owned(),
            }),
            last_name: known.then(|| match oddity {
                Oddity::Formulas => "@SUM(A1:A9)".to_owned(),
                Oddity::Quotes => "O'Brien \\ Sons, Ltd.".to_owned(),
                _ => (*pick(&place.last_names, draw(Topic::LastName, 4))).to_owned(),
            }),
            email: told(Topic::HasEmail, 1).then(|| format!("person{index}@example.test")),
            phone: told(Topic::HasPhone, 3).then(|| match oddity {
                Oddity::Loose => format!("(030) {:04}-{index}", draw(Topic::Phone, 10_000)),
                _ => format!("{}{:09}", place.dialling, draw(Topic::Phone, 1_000_000_000)),
            }),
            gender: told(Topic::HasGender, 2).then_some(gender),
            birth_date: if told(Topic::HasBirthDate, 3) { born } else { None },
            country: known.then_some(place.country),
            city: told(Topic::HasCity, 2).then_some(place.city),
            language: known.then_some(place.language),
            time_zone: known.then_some(match oddity {
                Oddity::Loose => "Eastern Time (US & Canada)",
                _ => place.time_zone,
            }),
            created_at: if oddity == Oddity::Bare { None } else { created },
            plan: *pick(&["free", "pro", "team", "企业版"], draw(Topic::Plan, 4)),
            age: known.then(|| 18 + draw(Topic::Age, 70)),
            score: known.then(|| draw(Topic::Score, 100_000) as f64 / 10.0),
            note: match oddity {
                Oddity::Formulas => Some("=HYPERLINK(\"https://evil.example.test\",\"click\")"),
                Oddity::Unicode => Some("naïve café, e\u{301}, 🏳️‍🌈, \u{202e}right to left\u{202c}, \u{feff}BOM"),
                Oddity::Quotes => Some(
                    "first line\nsecond \"line\"\r\nthird\tline, with comma; \\n is no line end\u{2028}and \u{2029}",
                ),
                Oddity::Empty => Some(""),
                Oddity::Numbers => Some("007"),
                Oddity::Nested => Some("{\"looks\":\"like json\"}"),
                Oddity::Loose => Some("null"),
                _ => None,
            },
            seed,
        }
    }

    /// A number below `below` that is this person's own for the topic; topics from 100 are free for the vendors.
    pub fn draw(&self, topic: u64, below: u64) -> u64 {
        draw(self.seed, self.index, topic, below)
    }
}

/// The entry at `number`, going round.
pub fn pick<T>(from: &[T], number: u64) -> &T {
    &from[usize::try_from(number % from.len() as u64).unwrap_or_default()]
}

fn user_id(oddity: Oddity, index: u64) -> Option<String> {
    match oddity {
        Oddity::Anonymous | Oddity::Aliases => None,
        Oddity::Unicode => Some(format!("用户-{index}-é")),
        Oddity::Quotes => Some(format!("o'brien,\"{index}\"")),
        Oddity::Numbers => Some(format!("{index:08}")),
        _ => Some(format!("user-{index}")),
    }
}

fn aliases(oddity: Oddity, index: u64) -> Vec<(&'static str, String)> {
    match oddity {
        Oddity::Aliases => {
            vec![("crm", format!("C-{index}")), ("crm", format!("C-{index}-old")), ("店铺", format!("会员 {index}"))]
        }
        Oddity::Devices => vec![("crm", format!("C-{index}"))],
        _ => Vec::new(),
    }
}

/// What a number is drawn for, so that each draw is independent of the others.
#[derive(Clone, Copy)]
enum Topic {
    Place,
    FirstName,
    LastName,
    HasEmail,
    HasPhone,
    Phone,
    HasGender,
    HasBirthDate,
    Born,
    HasCity,
    Created,
    Millis,
    Plan,
    Age,
    Score,
}

/// A number below `below`: SplitMix64 of seed, person and topic, the same on every machine and in every release.
pub fn draw(seed: u64, index: u64, topic: u64, below: u64) -> u64 {
    let mut z = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(index.wrapping_mul(0xd1b5_4a32_d192_ed03))
        .wrapping_add(topic.wrapping_mul(0x8cb9_2ba7_2f3d_8dd7));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % below
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_person_depends_on_nothing_but_seed_and_number() {
        let person = Person::new(1, 1_000_000_007);
        assert_eq!(person, Person::new(1, 1_000_000_007));
        let others = (0..100).filter(|index| Person::new(1, *index).phone != Person::new(2, *index).phone);
        assert!(others.count() > 50);
    }

    #[test]
    fn the_same_people_come_out_in_every_release() {
        let people: Vec<_> = (0..3).map(|index| Person::new(1, index)).collect();
        let shown: Vec<_> = people.iter().map(|p| (p.user_id.as_deref(), p.city, p.age)).collect();
        insta::assert_snapshot!(format!("{shown:?}"), @r#"[(Some("user-0"), Some("上海"), Some(76)), (Some("用户-1-é"), Some("Chicago"), Some(32)), (Some("user-2"), Some("Köln"), Some(25))]"#);
    }

    #[test]
    fn ids_and_addresses_are_unique() {
        let mut seen = BTreeSet::new();
        for index in 0..5_000 {
            let person = Person::new(1, index);
            for value in [person.user_id, person.email].into_iter().flatten() {
                assert!(seen.insert(value));
            }
        }
    }

    #[test]
    fn sixteen_people_show_every_oddity_and_every_time_has_a_fraction() {
        let oddities: BTreeSet<_> = (0..16).map(|index| format!("{:?}", Person::new(1, index).oddity)).collect();
        assert_eq!(oddities.len(), 14);
        for created_at in (0..1_000).filter_map(|index| Person::new(3, index).created_at) {
            assert_ne!(created_at.timestamp_subsec_millis(), 0);
        }
    }
}
