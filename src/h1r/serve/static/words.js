// Numbers in sentences.

// 1 token, 1,234 tokens.
export const counted = (number, noun) => `${number.toLocaleString("en")} ${number === 1 ? noun : `${noun}s`}`;
