"""Which prompts may be trained on: duplicates, prompts per user, personal data, and the split by user."""

from rlhf_lightning.data.hygiene.duplicates import deduplicate
from rlhf_lightning.data.hygiene.personal_data import PersonalDataFilter
from rlhf_lightning.data.hygiene.prompt_hygiene import Cleaned, PromptHygiene
from rlhf_lightning.data.hygiene.prompt_text import prompt_text
from rlhf_lightning.data.hygiene.users import at_most_per_user, split_by_user

__all__ = [
    "Cleaned",
    "PersonalDataFilter",
    "PromptHygiene",
    "at_most_per_user",
    "deduplicate",
    "prompt_text",
    "split_by_user",
]
