"""English sentences from a small grammar: plain words, every sentence different, about as long as asked."""

import re

import numpy as np

WORDS = {
    "determiner": "the this that my your our their his her one another every some each".split(),
    "adjective": """
        old young quiet heavy yellow green purple silver wooden broken gentle clever hungry tired famous lonely
        narrow early frozen golden curious patient stubborn cheerful empty bitter sudden simple modern ancient
        crowded dusty shallow distant polite nervous thirsty careful foreign usual brave smooth northern orange
        final double chilly funny honest jolly local major noble public royal secret tiny urgent vivid weary
    """.split(),
    "person": """
        farmer doctor sister teacher captain neighbour student painter driver gardener baker lawyer singer uncle
        cousin pilot sailor butcher tailor judge nurse writer soldier mother father brother daughter stranger
        builder engineer visitor librarian mayor grocer porter shepherd waiter actor poet dentist carpenter hunter
        miller musician banker reporter traveller widow grandson
    """.split(),
    "thing": """
        boat table window apple letter garden bridge bottle basket candle jacket pencil mountain village river
        kitchen hammer ladder blanket picture machine pocket mirror ticket cabbage pillow wagon engine chimney
        carpet button saddle bucket lantern guitar parcel compass whistle kettle feather barrel curtain envelope
        umbrella violin cupboard sandwich notebook telephone bicycle tractor diamond trumpet wallet orchard cushion
        helmet cottage magnet napkin pebble ribbon teapot vessel zipper
    """.split(),
    "verb": """
        carried painted repaired noticed borrowed followed polished measured collected dropped watched opened
        covered visited pushed forgot bought counted described studied cleaned finished hid brought moved remembered
        guarded examined ordered replaced sold threw wrapped welcomed avoided believed discovered emptied gathered
        hated imagined joined labelled missed named offered printed questioned returned shared touched unlocked
        valued washed admired built caught drew
    """.split(),
    "adverb": """
        slowly quickly quietly often never always suddenly gladly rarely carefully almost proudly nearly already
        simply finally calmly eagerly loudly politely twice usually warmly
    """.split(),
    "place": """
        near the harbour|behind the station|under the staircase|across the valley|beside the fountain|
        in the market|over the hill|outside the theatre|between two houses|along the coast|inside the museum|
        by the lake|around the corner|above the bakery|beyond the forest|at the airport|in a small café|
        on the island|through the tunnel|below the castle|next to the chapel|far from the city
    """.split("|"),
    "time": """
        before breakfast|after the storm|in the evening|on Monday morning|last winter|during the holidays|
        at midnight|a week ago|every Thursday|since the summer|in early March|for eleven days|
        when the rain began|until the bell rang|while nobody was looking|long before sunrise|
        on the fifth of June|just in time|as soon as possible|without any reason|for the second time|
        in less than an hour
    """.split("|"),
    "number": "two three four five six seven eight nine ten eleven twelve fifteen twenty forty sixty ninety".split(),
    "opening": """
        yes|well|of course|I think|perhaps|they say|in truth|luckily|as usual|to be fair|nobody knew why|
        by the way|for example|at first|in the end|oddly enough
    """.split("|"),
}
WORDS = {name: [" ".join(word.split()) for word in words] for name, words in WORDS.items()}
FORMS = (
    "{determiner} {adjective} {person} {verb} {determiner} {thing} {place}",
    "{opening}, {determiner} {person} {adverb} {verb} {number} {adjective} {thing}s {time}",
    "{time}, {determiner} {person} {verb} {determiner} {adjective} {thing}",
    "{place}, {number} {adjective} {person}s {adverb} {verb} {determiner} {thing}",
    "did {determiner} {adjective} {person} leave {number} {thing}s {place} {time}?",
    "{determiner} {thing} and {determiner} {thing} were {adjective}, but {determiner} {person} {verb} them {time}",
    "{determiner} {person} who {verb} {determiner} {thing} was {adverb} {adjective}",
    "{opening}, {determiner} {thing} {place} is more {adjective} than {determiner} {thing} {time}",
    "please bring {number} {thing}s and {determiner} {adjective} {thing} {place}",
    "I have {adverb} seen such {adjective} {thing}s {place} {time}",
    "{number} {person}s and {number} {thing}s, {adverb} {adjective}, waited {place}",
    "where is {determiner} {adjective} {thing} that {determiner} {person} {verb} {time}?",
)
SYLLABLES_PER_WORD = 1.75  # of these lists; what espeak-ng's words per minute amount to


def sentence(draws: np.random.Generator, words_per_minute: float, used: set[str]) -> str:
    """A sentence not in `used` (it is added) that takes about 3 to 5 s at that speaking rate."""
    per_second = words_per_minute / 60 * SYLLABLES_PER_WORD
    while True:
        form = FORMS[draws.integers(len(FORMS))]
        text = re.sub(r"{(\w+)}", lambda match: WORDS[match[1]][draws.integers(len(WORDS[match[1]]))], form)
        if text not in used and 3 <= count_syllables(text) / per_second <= 5:
            used.add(text)
            return text


def count_syllables(text: str) -> int:
    """Groups of vowels, a silent final e apart: near enough to tell a long sentence from a short one."""
    words = [re.sub(r"e\b", "", word) for word in re.findall(r"\w+", text.lower())]
    return sum(max(1, len(re.findall(r"[aeiouyé]+", word))) for word in words)
