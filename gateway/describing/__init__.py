"""What a provider's declaration says, in words: for people, for the documents and for clients."""
