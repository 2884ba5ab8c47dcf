//! The words of [`meanings`](super::meanings): functions, values, and how they are said.

/// A function of ViGGO's grammar.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// How many of 18 meanings have it.
    pub weight: usize,
    /// Attributes that it always has.
    pub always: &'static [&'static str],
    /// Attributes that it may have.
    pub optional: &'static [&'static str],
    /// The smallest and largest number of these.
    pub further: (usize, usize),
    /// What is said, with gaps for the `{name}`, the `{game}` in words and with `{a game}` article, `{extras}`, the
    /// `{verdict}` on it, and the `{specifier}`.
    pub wordings: &'static [&'static str],
}

/// All attributes, in the order in which a meaning has them.
pub const ATTRIBUTES: [&str; 14] = [
    "name",
    "exp_release_date",
    "release_year",
    "developer",
    "esrb",
    "rating",
    "genres",
    "player_perspective",
    "has_multiplayer",
    "platforms",
    "available_on_steam",
    "has_linux_release",
    "has_mac_release",
    "specifier",
];

/// All functions.
pub const FUNCTIONS: [Function; 9] = [
    Function {
        name: "inform",
        weight: 6,
        always: &["name", "genres"],
        optional: &[
            "exp_release_date",
            "developer",
            "esrb",
            "player_perspective",
            "has_multiplayer",
            "platforms",
            "available_on_steam",
            "has_linux_release",
            "has_mac_release",
        ],
        further: (2, 6),
        wordings: &[
            "{name} is {a game}. {extras}",
            "{name} is the name of {a game}. {extras}",
            "Let me tell you about {name}, {a game}. {extras}",
        ],
    },
    Function {
        name: "give_opinion",
        weight: 2,
        always: &["name", "rating"],
        optional: &[
            "release_year",
            "developer",
            "genres",
            "player_perspective",
            "platforms",
        ],
        further: (1, 3),
        wordings: &[
            "I played {name}, {a game}, and {verdict}.",
            "{name} is {a game}, and {verdict}.",
            "About {name}: that is {a game}, and {verdict}.",
        ],
    },
    Function {
        name: "verify_attribute",
        weight: 2,
        always: &["name", "rating"],
        optional: &[
            "release_year",
            "developer",
            "genres",
            "player_perspective",
            "platforms",
        ],
        further: (1, 3),
        wordings: &[
            "You once said of {name} that {verdict}. Do you think so of every {game}?",
            "I remember your words on {name}: {verdict}. Is any {game} like that for you?",
        ],
    },
    Function {
        name: "confirm",
        weight: 2,
        always: &["name"],
        optional: &[
            "release_year",
            "developer",
            "esrb",
            "genres",
            "player_perspective",
            "platforms",
        ],
        further: (1, 3),
        wordings: &[
            "Do you mean {name}, the {game}?",
            "Just to be sure: with {name} you mean the {game}?",
            "Oh, {name}? Is that the {game}?",
        ],
    },
    Function {
        name: "suggest",
        weight: 2,
        always: &["name"],
        optional: &[
            "release_year",
            "developer",
            "esrb",
            "genres",
            "player_perspective",
            "platforms",
        ],
        further: (1, 3),
        wordings: &[
            "Do you like to play {a game}, such as {name}?",
            "Would you enjoy {a game} in the way of {name}?",
            "Have you spent time on {a game} like {name}?",
        ],
    },
    Function {
        name: "recommend",
        weight: 1,
        always: &["name"],
        optional: &[
            "release_year",
            "developer",
            "genres",
            "player_perspective",
            "platforms",
        ],
        further: (1, 2),
        wordings: &[
            "Have you heard of {name}? It is {a game} that you should try.",
            "You could give {name} a chance, since it is {a game}.",
        ],
    },
    Function {
        name: "request",
        weight: 1,
        always: &["specifier"],
        optional: &[
            "release_year",
            "developer",
            "genres",
            "player_perspective",
            "platforms",
        ],
        further: (0, 2),
        wordings: &[
            "What {game} do you find really {specifier}?",
            "Can you name {a game} that is {specifier}?",
            "Which {game} would you call {specifier}?",
        ],
    },
    Function {
        name: "request_explanation",
        weight: 1,
        always: &["rating"],
        optional: &[
            "release_year",
            "developer",
            "genres",
            "player_perspective",
            "platforms",
        ],
        further: (1, 3),
        wordings: &[
            "You tried {a game}, and your words were: {verdict}. Why is that?",
            "What makes people say of {a game} that {verdict}?",
        ],
    },
    Function {
        name: "request_attribute",
        weight: 1,
        always: &[],
        optional: &[
            "release_year",
            "developer",
            "esrb",
            "genres",
            "player_perspective",
            "has_multiplayer",
            "platforms",
            "available_on_steam",
            "has_linux_release",
            "has_mac_release",
        ],
        further: (1, 1),
        wordings: &[],
    },
];

/// First words of a game's name.
pub const NAME_STARTS: [&str; 24] = [
    "Tin",
    "Copper",
    "Midnight",
    "Hollow",
    "Paper",
    "Salt",
    "Seven",
    "Winter",
    "Glass",
    "Amber",
    "Drifting",
    "Ember",
    "Velvet",
    "Silent",
    "Granite",
    "Juniper's",
    "Old Fenwick's",
    "Marla's",
    "Lantern",
    "Quartz",
    "Thunder",
    "Foggy",
    "Iron",
    "Last",
];

/// Last words of a game's name.
pub const NAME_ENDS: [&str; 20] = [
    " Harbor",
    " Orchard",
    " Circuit",
    " Kingdoms",
    " Rally 3",
    " Expedition",
    " Lighthouse",
    " Clockwork",
    " Bridges: Reunion",
    " Station IV",
    " Garden: The Long Night",
    " Runners",
    " Cartographer",
    " Voyage: Second Wind",
    " Tactics",
    " Meadow",
    " League 2000",
    " Chronicle",
    " Foundry: Night Shift",
    " Summit",
];

/// Made-up studios.
pub const DEVELOPERS: [&str; 16] = [
    "Ten Crows",
    "Blue Kettle Games",
    "Northlight & Daughters",
    "Pinecone Studio",
    "Marble Fox",
    "Halfmoon Works",
    "Redwater Interactive",
    "Little Anvil",
    "Owl Parade",
    "Cinder & Sons",
    "Brass Whale",
    "Slow River Software",
    "Static Bloom",
    "Tall Order Games",
    "Yellow Pier",
    "Umbra Lab",
];

/// Ratings of the Entertainment Software Rating Board, as ViGGO writes them.
pub const ESRB: [&str; 4] = [
    "E (for Everyone)",
    "E 10+ (for Everyone 10 and Older)",
    "T (for Teen)",
    "M (for Mature)",
];

/// How good a game is.
pub const RATINGS: [&str; 4] = ["excellent", "good", "average", "poor"];

/// Kinds of game.
pub const GENRES: [&str; 14] = [
    "action",
    "action-adventure",
    "adventure",
    "arcade",
    "driving/racing",
    "indie",
    "music",
    "platformer",
    "puzzle",
    "role-playing",
    "shooter",
    "simulation",
    "sport",
    "strategy",
];

/// Where the player looks from.
pub const PERSPECTIVES: [&str; 4] = ["bird view", "first person", "side view", "third person"];

/// What a game runs on.
pub const PLATFORMS: [&str; 5] = ["PlayStation", "Xbox", "Nintendo", "Nintendo Switch", "PC"];

/// What a game is asked to be.
pub const SPECIFIERS: [&str; 24] = [
    "addictive",
    "boring",
    "calm",
    "charming",
    "clumsy",
    "colorful",
    "cozy",
    "dull",
    "eerie",
    "frantic",
    "funny",
    "gloomy",
    "heartwarming",
    "loud",
    "moving",
    "odd",
    "original",
    "predictable",
    "relaxing",
    "rough",
    "short",
    "thrilling",
    "tricky",
    "unforgettable",
];

/// For dates of release.
pub const MONTHS: [&str; 6] = ["January", "March", "May", "August", "October", "December"];

/// How an attribute with this value is said; `{}` stands for the value.
pub fn phrase(attribute: &str, value: &str) -> &'static [&'static str] {
    match (attribute, value) {
        (_, "") => &[],
        ("developer", _) => &[
            "by {}",
            "made by {}",
            "developed by {}",
            "from the studio {}",
        ],
        ("release_year", _) => &["from {}", "released in {}", "of the year {}"],
        ("exp_release_date", _) => &["due on {}", "expected on {}", "to be released on {}"],
        ("esrb", _) => &["rated {}", "with the rating {}"],
        ("platforms", _) => &["for {}", "on {}", "available for {}"],
        ("rating", "excellent") => &[
            "it is outstanding",
            "nothing is better",
            "it is simply brilliant",
        ],
        ("rating", "good") => &["it is fun", "it is well made", "it was worth the time"],
        ("rating", "average") => &[
            "it is so-so",
            "it is nothing special",
            "it is neither good nor bad",
        ],
        ("rating", "poor") => &[
            "it is a waste of time",
            "it disappoints",
            "it is bad from start to end",
        ],
        ("has_multiplayer", "yes") => &["has a multiplayer mode", "can be played with others"],
        ("has_multiplayer", _) => &["has no multiplayer mode", "is for a single player"],
        ("available_on_steam", "yes") => &["is sold on Steam", "can be had on Steam"],
        ("available_on_steam", _) => &["is not on Steam", "cannot be had on Steam"],
        ("has_linux_release", "yes") => &["runs on Linux", "has a Linux version"],
        ("has_linux_release", _) => &["does not run on Linux", "has no Linux version"],
        ("has_mac_release", "yes") => &["runs on a Mac", "has a version for Macs"],
        ("has_mac_release", _) => &["does not run on a Mac", "has no version for Macs"],
        _ => &["{}"],
    }
}

/// How one asks what somebody likes about an attribute.
pub fn asking(attribute: &str) -> &'static [&'static str] {
    match attribute {
        "release_year" => &[
            "Are there years whose games you like best?",
            "Do you prefer games of a certain year?",
        ],
        "developer" => &[
            "Is there a studio that you follow?",
            "Whose games do you like best, of all developers?",
        ],
        "esrb" => &[
            "What age rating should a game have for you?",
            "Do you look at age ratings when you choose a game?",
        ],
        "genres" => &[
            "Which genres do you like to play?",
            "Is there a kind of game that you always come back to?",
        ],
        "player_perspective" => &[
            "From which perspective do you like to play?",
            "Is there a player perspective that suits you best?",
        ],
        "has_multiplayer" => &[
            "Do you like to play with others?",
            "Does a game need a multiplayer mode for you?",
        ],
        "platforms" => &[
            "What do you play your games on?",
            "Which platform do you like best?",
        ],
        "available_on_steam" => &[
            "Do you buy your games on Steam?",
            "Must a game be on Steam for you?",
        ],
        "has_linux_release" => &[
            "Do you care whether a game runs on Linux?",
            "Do you play on a Linux machine?",
        ],
        _ => &[
            "Do you care whether a game runs on a Mac?",
            "Do you play on a Mac?",
        ],
    }
}
