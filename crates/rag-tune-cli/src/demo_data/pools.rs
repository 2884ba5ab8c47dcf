//! Names shared by all domains.

/// First names from many places; a full name joins one with a last name.
pub const FIRST_NAMES: [&str; 64] = [
    "Ada", "Amir", "Anouk", "Arturo", "Astrid", "Bashir", "Beatriz", "Bruno", "Carmen", "Chidi",
    "Clara", "Daichi", "Delphine", "Dmitri", "Edith", "Elena", "Emeka", "Esther", "Farah", "Felix",
    "Gita", "Greta", "Hamid", "Hanna", "Henrik", "Hugo", "Ines", "Ivan", "Jamila", "Jonas",
    "Josefa", "Kaito", "Karin", "Kwame", "Leila", "Linus", "Luca", "Magda", "Malik", "Marta",
    "Mateo", "Mei", "Milan", "Nadia", "Nils", "Noor", "Olga", "Oscar", "Paula", "Pavel", "Priya",
    "Rafael", "Rosa", "Samuel", "Sanna", "Selma", "Simon", "Tariq", "Thea", "Tomas", "Vera",
    "Viktor", "Yara", "Zoe",
];

/// Last names from many places.
pub const LAST_NAMES: [&str; 64] = [
    "Abara", "Ahlberg", "Alvarez", "Andrade", "Baker", "Banerjee", "Barros", "Bauer", "Bergman",
    "Blake", "Castillo", "Chen", "Clarke", "Costa", "Dahl", "Delgado", "Diallo", "Dumont",
    "Eklund", "Farrell", "Ferrari", "Fischer", "Fontaine", "Garcia", "Gruber", "Haddad", "Hansen",
    "Hoffman", "Horvat", "Ito", "Jansen", "Kaplan", "Keller", "Khan", "Kovac", "Kumar", "Larsen",
    "Lehmann", "Lopez", "Marino", "Mensah", "Meyer", "Moreno", "Murphy", "Nakamura", "Novak",
    "Nowak", "Okoye", "Olsson", "Park", "Pereira", "Quinn", "Ramos", "Reid", "Rossi", "Sato",
    "Schmidt", "Silva", "Suzuki", "Tanaka", "Ueda", "Varga", "Weiss", "Yilmaz",
];
