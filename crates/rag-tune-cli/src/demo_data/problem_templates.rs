//! What the word problems are about.

/// A kind of problem.
#[derive(Debug)]
pub struct Template {
    /// What it is called in the statistics.
    pub name: &'static str,
    /// Wordings, with gaps for `{name}`, `{other}`, `{thing}` and the numbers.
    pub questions: &'static [&'static str],
    /// What `{thing}` can be.
    pub things: &'static [&'static str],
    /// Name, smallest and largest value of each number.
    pub numbers: &'static [(&'static str, usize, usize)],
    /// The solution.
    pub steps: &'static [Step],
}

/// A line of the solution.
#[derive(Debug)]
pub struct Step {
    /// The name of what is found.
    pub result: &'static str,
    /// Names and numbers with operators between them, a space between the parts; read from left to right.
    pub calculation: &'static str,
    /// The line, with a gap for `{calc}`, or for `{$calc}` where it is money.
    pub line: &'static str,
}

const fn step(result: &'static str, calculation: &'static str, line: &'static str) -> Step {
    Step {
        result,
        calculation,
        line,
    }
}

/// All kinds.
pub const TEMPLATES: &[Template] = &[
    Template {
        name: "boxes, some given away",
        questions: &[
            "{name} buys {a} boxes of {thing} with {b} in each box, and gives {c} of them to {other}. How many {thing} does {name} keep?",
            "There are {b} {thing} in a box. {name} has {a} boxes and hands {c} {thing} over to {other}. How many {thing} are left for {name}?",
        ],
        things: &[
            "candles",
            "marbles",
            "tea bags",
            "screws",
            "postcards",
            "walnuts",
            "crayons",
        ],
        numbers: &[("a", 3, 14), ("b", 6, 30), ("c", 5, 60)],
        steps: &[
            step("all", "a * b", "{name} starts with {calc} {thing}."),
            step(
                "kept",
                "all - c",
                "After the gift there are {calc} {thing} left.",
            ),
        ],
    },
    Template {
        name: "market stall",
        questions: &[
            "{name} sells {thing} at a market for ${p} each: {a} in the morning and {b} in the afternoon. The stall costs ${c} for the day. How many dollars does {name} take home?",
            "A stall at the market costs ${c} a day. {name} rents it and sells {a} {thing} before noon and {b} after noon, for ${p} apiece. How much money is left when the stall is paid?",
        ],
        things: &[
            "jars of honey",
            "loaves of bread",
            "wooden spoons",
            "baskets",
            "bunches of tulips",
        ],
        numbers: &[("p", 3, 12), ("a", 8, 40), ("b", 5, 35), ("c", 20, 90)],
        steps: &[
            step("sold", "a + b", "{name} sells {calc} {thing}."),
            step("taken", "sold * p", "They bring in {$calc}."),
            step(
                "left",
                "taken - c",
                "When the stall is paid, {$calc} are left.",
            ),
        ],
    },
    Template {
        name: "way to work",
        questions: &[
            "{name} lives {a} kilometers from work and goes there and back by {thing} on {d} days a week. How many kilometers is that in {w} weeks?",
            "It is {a} kilometers from {name}'s door to the office. {name} takes the {thing} both ways, {d} days a week. How far does {name} travel in {w} weeks, in kilometers?",
        ],
        things: &["bicycle", "tram", "ferry", "scooter"],
        numbers: &[("a", 2, 24), ("d", 3, 6), ("w", 2, 12)],
        steps: &[
            step("day", "a * 2", "There and back are {calc} kilometers."),
            step("week", "day * d", "A week has {calc} kilometers."),
            step(
                "all",
                "week * w",
                "In {w} weeks {name} travels {calc} kilometers.",
            ),
        ],
    },
    Template {
        name: "shared harvest",
        questions: &[
            "{name} picks {a} {thing} and {other} picks {b}. They throw away {c} bad ones and put the rest into {k} baskets, as many into each. How many {thing} are in a basket?",
            "{k} baskets are filled evenly with what {name} and {other} picked: {a} and {b} {thing}, of which {c} were rotten and thrown out. How many {thing} does a basket hold?",
        ],
        things: &["pears", "plums", "lemons", "peppers", "apricots"],
        numbers: &[("a", 20, 90), ("b", 15, 80), ("c", 2, 20), ("k", 3, 9)],
        steps: &[
            step("all", "a + b", "Together they pick {calc} {thing}."),
            step("good", "all - c", "Of these, {calc} are good."),
            step("each", "good / k", "A basket holds {calc} {thing}."),
        ],
    },
    Template {
        name: "saving up",
        questions: &[
            "{name} wants a {thing} that costs ${c} and has saved ${h} so far. A job pays ${e} an hour. How many hours must {name} work to afford the {thing}?",
            "A {thing} is on sale for ${c}. {name} owns ${h} and earns ${e} for each hour of work. After how many hours of work can {name} buy it?",
        ],
        things: &[
            "guitar",
            "tent",
            "camera",
            "sewing machine",
            "kayak",
            "telescope",
        ],
        numbers: &[("c", 120, 480), ("h", 15, 110), ("e", 7, 18)],
        steps: &[
            step("need", "c - h", "{name} still needs {$calc}."),
            step("hours", "need / e", "That takes {calc} hours."),
        ],
    },
    Template {
        name: "times as many",
        questions: &[
            "{name} has {a} {thing}. {other} has {k} times as many, and then gets {b} more. How many {thing} do they have together?",
            "{other} owned {k} times as many {thing} as {name}, who owns {a}, before {other} was given {b} more. How many {thing} do both own now?",
        ],
        things: &[
            "stamps",
            "comics",
            "coins",
            "seashells",
            "stickers",
            "fossils",
        ],
        numbers: &[("a", 7, 60), ("k", 2, 6), ("b", 3, 25)],
        steps: &[
            step("before", "a * k", "{other} first has {calc} {thing}."),
            step("now", "before + b", "With the new ones it is {calc}."),
            step("both", "now + a", "Together they have {calc} {thing}."),
        ],
    },
    Template {
        name: "rows of a garden",
        questions: &[
            "{name} plants {r} rows of {thing} with {n} in each row. Half of them bloom white, and {y} of the others bloom yellow. The rest bloom red. How many are red?",
            "In a garden there are {r} rows of {n} {thing}. One half is white, {y} are yellow, and all others are red. How many {thing} are red?",
        ],
        things: &["roses", "tulips", "dahlias", "asters"],
        numbers: &[("r", 4, 16), ("n", 6, 22), ("y", 4, 30)],
        steps: &[
            step("all", "r * n", "There are {calc} {thing}."),
            step("half", "all / 2", "One half is {calc}."),
            step("red", "half - y", "That leaves {calc} red {thing}."),
        ],
    },
    Template {
        name: "discount",
        questions: &[
            "A {thing} costs ${p}. {name} has a voucher for {k}% off and pays with ${n} in cash. How many dollars of change does {name} get?",
            "{name} buys a {thing} priced at ${p}, gets a discount of {k}%, and hands over ${n}. What is the change in dollars?",
        ],
        things: &[
            "jacket",
            "lamp",
            "backpack",
            "blanket",
            "kettle",
            "chess set",
        ],
        numbers: &[("p", 20, 180), ("k", 5, 60), ("n", 60, 200)],
        steps: &[
            step("off", "p * k / 100", "The discount is {$calc}."),
            step("price", "p - off", "The price is then {$calc}."),
            step("change", "n - price", "The change is {$calc}."),
        ],
    },
    Template {
        name: "school trip",
        questions: &[
            "{c} classes of {s} pupils each and {t} teachers go to the {thing}. A bus holds {k} people. How many full buses do they need, and if a bus costs ${p}, how much do the buses cost in all?",
            "The {thing} is visited by {c} classes with {s} pupils in each, together with {t} teachers. They fill buses of {k} seats exactly, and each bus costs ${p}. How many dollars do the buses cost?",
        ],
        things: &["zoo", "museum", "castle", "planetarium", "theater"],
        numbers: &[
            ("c", 3, 9),
            ("s", 18, 30),
            ("t", 4, 12),
            ("k", 20, 60),
            ("p", 80, 240),
        ],
        steps: &[
            step("pupils", "c * s", "There are {calc} pupils."),
            step(
                "people",
                "pupils + t",
                "With the teachers it is {calc} people.",
            ),
            step("buses", "people / k", "They need {calc} buses."),
            step("cost", "buses * p", "The buses cost {$calc}."),
        ],
    },
    Template {
        name: "profit of a bakery",
        questions: &[
            "{name} bakes {t} trays with {n} {thing} on each and sells every one for ${p}. Flour, sugar and butter cost ${i}, and {other} gets ${h} for helping. How many dollars of profit does {name} make?",
            "From {t} trays of {n} {thing}, all sold at ${p} apiece, {name} has to pay ${i} for ingredients and ${h} to {other}. What profit remains, in dollars?",
        ],
        things: &["muffins", "cinnamon rolls", "pretzels", "tarts", "scones"],
        numbers: &[
            ("t", 3, 10),
            ("n", 8, 24),
            ("p", 2, 6),
            ("i", 15, 60),
            ("h", 10, 45),
        ],
        steps: &[
            step("made", "t * n", "{name} bakes {calc} {thing}."),
            step("sales", "made * p", "They sell for {$calc}."),
            step("costs", "i + h", "The costs are {$calc}."),
            step("profit", "sales - costs", "The profit is {$calc}."),
        ],
    },
    Template {
        name: "pages to read",
        questions: &[
            "A {thing} has {p} pages. {name} reads {a} pages a day for {d} days, and then wants to finish it in {r} days with as many pages on each. How many pages a day is that?",
            "{name} has read {a} pages of a {thing} on each of {d} days. It has {p} pages. How many pages a day must {name} read to be done in {r} more days?",
        ],
        things: &["novel", "biography", "travel guide", "history book"],
        numbers: &[("p", 180, 520), ("a", 12, 30), ("d", 3, 7), ("r", 4, 10)],
        steps: &[
            step("read", "a * d", "{name} has read {calc} pages."),
            step("left", "p - read", "There are {calc} pages left."),
            step("daily", "left / r", "That is {calc} pages a day."),
        ],
    },
    Template {
        name: "filling a tank",
        questions: &[
            "A {thing} holds {v} liters. A pump brings in {i} liters a minute, and a leak loses {o} liters a minute. How many minutes does it take to fill the empty {thing}?",
            "Each minute {i} liters flow into a {thing} and {o} liters leak out of it. It is empty at first and holds {v} liters. After how many minutes is it full?",
        ],
        things: &["tank", "barrel", "pool", "fountain", "cistern"],
        numbers: &[("v", 120, 960), ("i", 9, 40), ("o", 1, 8)],
        steps: &[
            step("net", "i - o", "Each minute adds {calc} liters."),
            step("minutes", "v / net", "It is full after {calc} minutes."),
        ],
    },
];
