Feature: Documents come in the order of how well they answer
  A search that found many documents asks a model that reads each with the query which of them answer it.

  Background:
    Given a server with a tiny reranker

  Scenario: The best come first, whatever the company
    When I rerank 12 documents
    Then each is there once, best first, with a score between 0 and 1
    And each alone has the score that it has among the others

  Scenario: As few as I want, with their texts
    When I rerank 12 documents for the best 3
    Then the best 3 are there with their texts

  Scenario: A document that is too long is named, or cut where I allow it
    When I rerank 12 documents, of which the fifth is too long
    Then I am refused with 400 for documents[4]
    When I allow it to be cut
    Then its end is left out and the answer says so

  Scenario: Who cannot wait leaves them as a task
    When I leave 12 documents to be reranked as a task
    Then its stream tells 12 scores in the order of the documents and ends
    And its result is what I am told when I wait

  Scenario Outline: What the model is not for is refused
    When I ask the reranker for <what>
    Then I am refused with 400 for model

    Examples:
      | what             |
      | a chat           |
      | an embedding     |
